"""The physical format that images and maps have inside a function: batch-last, but for batches too small for it.

What comes in another format, at the data's entry or from a product of matrices, is copied once. Filters are bc01, or
batch-last where they are brought to bfloat16, in which kernels read them as they are.
"""

import torch

LEAST_BATCH = 16
"""The smallest batch that is kept batch-last."""

LEAST_TILED = 4 << 20
"""Bytes of images that a kernel of its own copies faster than a fused one, in which one side is not coalesced."""


def batch_last_by_torch(images: torch.Tensor) -> torch.Tensor:
    """A batch-last copy by torch's operations, for its compiler to fuse."""
    return images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def formatted(images: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Images in the format, and dtype, that kernels are to compute in.

    A tensor is converted once, however many kernels read it, and so they know that they read the same.
    """
    if dtype is not None and images.dtype != dtype:
        converted = getattr(images, "_converted", None)
        if converted is None or converted.dtype != dtype:
            converted = images._converted = images.to(dtype)
        images = converted
    if images.shape[0] < LEAST_BATCH or images.permute(1, 2, 3, 0).is_contiguous():
        return images
    copied = getattr(images, "_batch_last", None)
    if copied is None:
        copied = images._batch_last = _batch_last(images)
    return copied


def formatted_filters(filters: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Filters in the dtype that kernels are to compute in, and in the format in which they are read fastest."""
    from pytensor_convnet.kernels.cuda.window_filters import can_be_read

    filters = filters.to(dtype)
    return batch_last_by_torch(filters) if can_be_read(filters) else filters.contiguous()


def _batch_last(images: torch.Tensor) -> torch.Tensor:
    """A batch-last copy: of many images in tiles, by a kernel; of few by torch, which fuses it with what is before."""
    if images.numel() * images.element_size() < LEAST_TILED or images.device.type != "cuda":
        return batch_last_by_torch(images)
    from pytensor_convnet.lowering.cuda.operators import KernelCall, call

    images = images.contiguous()
    results = [(images.shape, images.dtype, "batch_last")]
    [copied] = call(KernelCall("change_format", [images], ("batch_last",), results))
    return copied


def format_of(batch: int) -> str:
    """The format of images of such a batch."""
    return "batch_last" if batch >= LEAST_BATCH else "bc01"
