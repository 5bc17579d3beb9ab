"""Local response normalisation across maps of c01b images, under cuda-convnet's names.

    denominators = 1 + add_scale * (sum of the squares of neighbouring maps)
    CrossMapNorm(size_f, add_scale, pow_scale, blocked)(images) = images / denominators ** pow_scale

What neighbours are, and where the formula comes from, stands in `pytensor_convnet.ops.cross_map_norm`. A network that
was described by cuda-convnet's layer files has ``add_scale = scale / size``.
"""

from dataclasses import dataclass
from typing import Any

from pytensor.graph.basic import Variable

from pytensor_convnet import ops
from pytensor_convnet.cuda_convnet.errors import in_c01b_terms
from pytensor_convnet.cuda_convnet.layouts import as_c01b, from_bc01, to_bc01
from pytensor_convnet.geometry import as_count
from pytensor_convnet.ops.cross_map_norm import finite


@dataclass(frozen=True)
class ResponseNorm:
    """What `CrossMapNorm` and `CrossMapNormUndo` share.

    Parameters
    ----------
    size_f : int
        How many maps normalise each other. For an odd number, a map is in the middle of its neighbours.
    add_scale : float
        The weight of their energy (alpha).
    pow_scale : float
        The power of the denominator (beta). Multiples of a quarter are fastest.
    blocked : bool
        Whether a map's neighbours are the ``size_f`` maps of its block, instead of those around it.

    Raises
    ------
    ValueError
        If an argument has no meaning.
    """

    size_f: int
    add_scale: float
    pow_scale: float
    blocked: bool = False

    def __post_init__(self) -> None:
        as_count(self.size_f, "size_f", least=1)
        finite(self.add_scale, "add_scale")
        finite(self.pow_scale, "pow_scale")

    def _arguments(self) -> tuple[int, float, float, bool]:
        return self.size_f, self.add_scale, self.pow_scale, self.blocked


class CrossMapNorm(ResponseNorm):
    """Normalise each map by its neighbours: ``CrossMapNorm(size_f, add_scale, pow_scale, blocked)(images)``.

    Parameters
    ----------
    size_f, add_scale, pow_scale, blocked
        See `ResponseNorm`.

    Notes
    -----
    The name and the arguments are those of ``pylearn2.sandbox.cuda_convnet.response_norm``. There, images had to be
    square and channels a multiple of 16, and only the first output had a gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from pytensor_convnet.cuda_convnet import CrossMapNorm
    >>> images = np.array([1.0, 2.0, 2.0]).reshape(3, 1, 1, 1)
    >>> maps, denominators = CrossMapNorm(size_f=3, add_scale=1, pow_scale=1, blocked=False)(images)
    >>> denominators.eval().ravel().tolist()
    [6.0, 10.0, 9.0]
    >>> maps.eval().ravel().round(3).tolist()
    [0.167, 0.2, 0.222]
    """

    def __call__(self, images: Any) -> list[Variable]:
        """The normalised images, and their denominators.

        Parameters
        ----------
        images : tensor of shape (channels, rows, columns, batch)

        Returns
        -------
        targets, denoms : tensors of the same shape
            ``targets = images / denoms ** pow_scale``. Each is computed only if it is used, and each has a gradient.

        Raises
        ------
        ValueError
            If ``images`` have not four axes.
        """
        bc01 = to_bc01(as_c01b(images, "images"))
        op = ops.CrossMapNorm(*self._arguments())
        return [from_bc01(op(bc01)), from_bc01(op.denominators(bc01))]


class CrossMapNormUndo(ResponseNorm):
    """The gradient of `CrossMapNorm`: ``CrossMapNormUndo(size_f, ...)(images, acts, denoms, dout)``.

    Parameters
    ----------
    size_f, add_scale, pow_scale, blocked
        See `ResponseNorm`.
    """

    def __call__(self, images: Any, acts: Any, denoms: Any, dout: Any) -> list[Variable]:
        """The gradient for the images.

        Parameters
        ----------
        images : tensor of shape (channels, rows, columns, batch)
        acts, denoms : tensors of the same shape
            The outputs of `CrossMapNorm`. Computed anew, which is quicker than reading them, and so not used.
        dout : tensor of the same shape
            The gradient for ``acts``.

        Returns
        -------
        targets, out_acts : tensors of the same shape
            The gradient, and ``acts``.

        Raises
        ------
        ValueError
            If the shapes differ.
        """
        images, dout = as_c01b(images, "images"), as_c01b(dout, "dout")
        with in_c01b_terms(images=images, dout=dout):
            gradient = ops.CrossMapNormGrad(*self._arguments())(to_bc01(images), to_bc01(dout))
        return [from_bc01(gradient), as_c01b(acts, "acts")]
