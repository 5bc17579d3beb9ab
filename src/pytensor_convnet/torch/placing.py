"""Whether a tensor is one for this package's kernels, and where its elements lie."""

from collections.abc import Collection
from importlib.util import find_spec

import torch

HAS_TRITON = find_spec("triton") is not None


def is_for_kernels(tensor: torch.Tensor, dtypes: Collection[torch.dtype]) -> bool:
    """Whether the kernels compute with this tensor: it is on a GPU, and of one of ``dtypes``.

    Raises
    ------
    ImportError
        It is, but Triton, which the kernels are written in, is not installed.
    """
    if tensor.device.type != "cuda" or tensor.dtype not in dtypes:
        return False
    if not HAS_TRITON:
        raise ImportError("on a GPU, pytensor_convnet.torch needs Triton: pip install 'pytensor-convnet[cuda]'")
    return True


def to_batch_last(images: torch.Tensor) -> torch.Tensor:
    """The same images with their batch innermost in memory: the format in which convolutions of few channels are fast.

    Shape and indices stay as they are, as with ``torch.channels_last``; all functions here give results in the format
    of their images. A network needs this once, at its input; and for its weights, where these are bfloat16, or become
    that by autocast: kernels read them fastest with filters innermost.

    Parameters
    ----------
    images : tensor, (batch, channels, rows, columns)

    Returns
    -------
    tensor, (batch, channels, rows, columns)
        With a stride of 1 along the batch; ``images`` itself if it has that already.

    Examples
    --------
    >>> to_batch_last(torch.zeros(8, 3, 5, 7)).stride()
    (1, 280, 56, 8)
    """
    return images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
