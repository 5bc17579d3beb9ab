"""More images to learn from, made of those that there are."""

import numpy as np


def moved_copies(images: np.ndarray, shift: int) -> np.ndarray:
    """Images as they are, then all of them moved by ``shift`` pixels up, down, left and right.

    Parameters
    ----------
    images : array, (number, channels, rows, columns)
    shift : int
        0 for no copies.

    Returns
    -------
    array, (number, ...) without copies, else (5 * number, ...)
        What a move leaves empty is zero.

    Examples
    --------
    >>> import numpy as np
    >>> moved_copies(np.array([[[[1, 2], [3, 4]]]]), 1)[1:, 0].tolist()
    [[[3, 4], [0, 0]], [[0, 0], [1, 2]], [[2, 0], [4, 0]], [[0, 1], [0, 3]]]
    """
    if shift == 0:
        return images
    rows, columns = images.shape[2:]
    framed = np.pad(images, ((0, 0), (0, 0), (shift, shift), (shift, shift)))
    middle, far = shift, 2 * shift
    corners = [(middle, middle), (far, middle), (0, middle), (middle, far), (middle, 0)]
    return np.concatenate([framed[:, :, y : y + rows, x : x + columns] for y, x in corners])
