"""What a program will call, found out on fake tensors when its first kernel has to be tuned.

So all that its kernels will choose among is compiled side by side; see `kernels.cuda.tuning_ahead`.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from pytensor.graph.basic import Variable
from torch._subclasses import FakeTensorMode

from pytensor_convnet.cuda.hosting import HostNumbers
from pytensor_convnet.cuda.program import Program


def foreseen(
    program: Program, inputs: list[torch.Tensor], host: HostNumbers, known: dict[Variable, object]
) -> AbstractContextManager[None]:
    """A context in which the program is run with these arguments, as `Program.run` has them."""
    if program.target.device.type != "cuda":
        return nullcontext()
    from pytensor_convnet.kernels.cuda.tuning import foreseeing

    return foreseeing(lambda: _tune_ahead(program, inputs, host, known))


def _tune_ahead(program: Program, inputs: list[torch.Tensor], host: HostNumbers, known: dict[Variable, object]) -> None:
    """Nothing depends on it: what fails here fails again, or not, when the program goes on."""
    from pytensor_convnet.kernels.cuda.tuning_ahead import tune_ahead
    from pytensor_convnet.lowering.cuda.operators import calls_noted

    fake = FakeTensorMode(static_shapes=True, allow_non_fake_inputs=True)
    try:
        with torch.no_grad(), calls_noted() as calls, fake:
            feeds = [fake.from_tensor(feed) for feed in program.feed_tensors(host)]
            program.run([fake.from_tensor(tensor) for tensor in inputs], feeds, host, known)
    except Exception:
        return
    tune_ahead(calls, program.target.device)
