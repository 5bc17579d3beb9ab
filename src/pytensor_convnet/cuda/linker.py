"""The linker of mode CUDA, and the function that it makes."""

import copyreg
from typing import Any

import numpy as np
from pytensor.compile import executor
from pytensor.compile.executor import Function
from pytensor.compile.maker import FunctionMaker
from pytensor.graph.basic import Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.link.basic import Container
from pytensor.link.pytorch.linker import PytorchLinker

from pytensor_convnet.cuda.arrays import DeviceArray
from pytensor_convnet.cuda.devices import find_device


class CudaLinker(PytorchLinker):
    """Links a graph to torch tensors on one device.

    A kind of PyTensor's PyTorch linker, so that what rewrites prepare for that is prepared for this.

    Parameters
    ----------
    precision : {'medium', 'high', 'ieee', 'bf16'}
    device : str, optional
        As torch has it; by default what `devices.device_name` says when a function is compiled.
    compile, capture : bool

    Attributes
    ----------
    shared : dict of int to list of Container
        The containers of the inputs that are shared variables.
    """

    def __init__(
        self, precision: str = "medium", device: str | None = None, compile: bool = True, capture: bool = True
    ) -> None:
        super().__init__()
        self.precision, self.device = precision, device
        self.compile, self.capture = compile, capture
        self.fgraph: FunctionGraph | None = None
        self.shared: dict[int, list[Container]] = {}

    def accept(self, fgraph: FunctionGraph, no_recycling: Any = None, profile: Any = None) -> "CudaLinker":
        linker = self if self.fgraph is None else type(self)(self.precision, self.device, self.compile, self.capture)
        linker.fgraph = fgraph
        return linker

    def make_thunk(self, input_storage: Any = None, output_storage: Any = None, storage_map: Any = None, **_: Any):
        """The function's VM and the containers of its inputs and outputs."""
        device = find_device(self.device)  # before torch is imported: it may be missing
        from pytensor_convnet.cuda.execution import Execution
        from pytensor_convnet.cuda.program import Program
        from pytensor_convnet.cuda.residents import contain, give_copies, move, watch_other_modes
        from pytensor_convnet.lowering.cuda import Target

        if device.type == "cuda":
            from pytensor_convnet.kernels.cuda.tuning import prepare

            prepare()
        fgraph = self.fgraph
        assert fgraph is not None
        cells = [[None] for _ in fgraph.inputs] if input_storage is None else input_storage
        program = Program(fgraph, dict(fgraph.update_mapping or {}), Target(device, self.precision))
        watch_other_modes()
        give_copies()
        inputs = [Container(variable, cell) for variable, cell in zip(fgraph.inputs, cells)]
        residents = {}
        for place in program.on_device:
            for container in self.shared.get(place, ()):
                residents[place] = move(fgraph.inputs[place], container, device)
            if place in residents:
                inputs[place] = contain(residents[place])
        outputs = [Container(variable, [getattr(variable, "data", None)], readonly=True) for variable in fgraph.outputs]
        return Execution(program, cells, residents, self.compile, self.capture), inputs, outputs

    def __repr__(self) -> str:
        return f"CudaLinker(precision={self.precision!r}, device={self.device!r})"


class CudaFunction(Function):
    """A function of mode CUDA. Besides NumPy arrays it takes tensors of torch and what such functions returned."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        required = [container.required for container in self.input_storage]
        count = sum(required)
        # Where exactly the first inputs are arguments, as is usual, a call need not look at the shared variables.
        self._arguments = self.input_storage[:count] if all(required[:count]) else None

    def _validate_inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = [value.tensor if isinstance(value, DeviceArray) else value for value in args]
        if kwargs or self._arguments is None or len(values) != len(self._arguments):
            super()._validate_inputs(tuple(map(_on_host, values)), {name: _on_host(x) for name, x in kwargs.items()})
            return
        for place, (container, value) in enumerate(zip(self._arguments, values)):
            try:
                checked = stand_in(value) if hasattr(value, "untyped_storage") else value
                array = container.type.filter(checked, container.strict, container.allow_downcast)
            except Exception as error:
                where = f" of {self.name}" if self.name else ""
                error.add_note(f"Invalid argument {container.name or place}{where}, at index {place}")
                raise
            container.storage[0] = array if checked is value else value


def _on_host(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "untyped_storage") else value


copyreg.pickle(CudaFunction, executor._pickle_Function)


def stand_in(tensor: Any) -> np.ndarray:
    """An array of a tensor's shape and dtype that takes no memory."""
    dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
    return np.broadcast_to(np.zeros((), dtype), tuple(tensor.shape))


class CudaFunctionMaker(FunctionMaker):
    """Makes functions of mode CUDA: tells the linker which inputs are shared variables."""

    def __init__(self, *args: Any, function_class: type[Function] = CudaFunction, **kwargs: Any) -> None:
        super().__init__(*args, function_class=function_class, **kwargs)

    def create(self, input_storage: Any = None, storage_map: Any = None) -> Function:
        storage = [getattr(x, "value", None) for x in self.inputs] if input_storage is None else input_storage
        containers = [value.container if isinstance(value, Variable) else value for value in storage]
        self.linker.shared = {
            place: [container, *_of_the_same_cell(container, spec.value)]
            for place, (spec, container) in enumerate(zip(self.expanded_inputs, containers, strict=True))
            if isinstance(container, Container) and (spec.shared or spec.implicit)
        }
        return super().create(containers, storage_map)


def _of_the_same_cell(container: Container, value: Any) -> list[Container]:
    """The shared variable's own container, where a function that was pickled brings another for the same value."""
    own = value.container if isinstance(value, Variable) else value
    is_other = isinstance(own, Container) and own is not container and own.storage is container.storage
    return [own] if is_other else []
