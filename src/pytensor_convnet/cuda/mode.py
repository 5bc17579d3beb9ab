"""Mode CUDA: its name for `pytensor.function`, and the same mode with settings of one's own."""

from pytensor.compile.maker import FunctionMaker
from pytensor.compile.mode import Mode, predefined_modes
from pytensor.graph.rewriting.db import RewriteDatabaseQuery

from pytensor_convnet.cuda.linker import CudaFunctionMaker, CudaLinker

PRECISIONS = ("medium", "high", "ieee", "bf16")


class CudaMode(Mode):
    """A mode whose functions live on the device; made by `cuda_mode`."""

    @property
    def function_maker(self) -> type[FunctionMaker]:
        return CudaFunctionMaker


def cuda_mode(
    precision: str = "medium", device: str | None = None, compile: bool = True, capture: bool = True
) -> CudaMode:
    """A mode for `pytensor.function` whose functions live on the GPU.

    ``mode="CUDA"`` is this with all defaults. Nothing is imported or asked of the GPU before a function is compiled.

    Parameters
    ----------
    precision : {'medium', 'high', 'ieee', 'bf16'}
        How float32 is multiplied in convolutions, with relative errors of at most 1e-3 (as tf32, everybody's default),
        2e-5 and 1e-6; products of matrices are in tf32 with 'medium' only. With 'bf16' maps are kept, and multiplied,
        in bfloat16; parameters, their updates, sums and softmax stay float32.
    device : str, optional
        As torch names it. By default the environment variable PYTENSOR_CONVNET_DEVICE, else the current GPU. On 'cpu'
        everything works but capture and compilation.
    compile : bool
        Whether torch's compiler fuses elementwise operations. Without it a function is ready sooner, and slower.
    capture : bool
        Whether a function whose shapes come back is captured in a CUDA graph.

    Returns
    -------
    CudaMode

    Raises
    ------
    ValueError
        ``precision`` is none of those above.

    Examples
    --------
    >>> import pytensor.tensor as pt, pytensor
    >>> x = pt.fvector("x")
    >>> double = pytensor.function([x], 2 * x, mode=cuda_mode(device="cpu"))  # doctest: +SKIP
    >>> double([1, 2])  # doctest: +SKIP
    DeviceArray([2., 4.], dtype=float32)
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return CudaMode(CudaLinker(precision, device, compile, capture), RewriteDatabaseQuery(include=["fast_run", "cuda"]))


predefined_modes["CUDA"] = cuda_mode()
