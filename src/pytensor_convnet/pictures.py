"""Pictures from files, made into what a network has learnt from."""

import warnings
from pathlib import Path

import numpy as np

CHANNELS = {1: "L", 3: "RGB"}
"""How pillow names pictures of so many channels."""


class UnreadablePicture(ValueError):
    """A file is no picture, or none that the network could take."""


def read(path: Path | str, image_shape: tuple[int, ...]) -> np.ndarray:
    """A picture as a network wants it.

    It is turned the way the camera was held, laid on white where it is transparent, made grey or coloured, and
    resized as a whole: what then lacks in height or width is filled with the brightness of its border.

    Parameters
    ----------
    path : path
        Of any format that pillow opens.
    image_shape : (int, int, int)
        (channels, rows, columns) that the network wants; one channel or three.

    Returns
    -------
    float32 array, (channels, rows, columns)
        Pixels in [0, 1].

    Raises
    ------
    UnreadablePicture
        The file is no picture, or the network wants neither one channel nor three.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (80, 60), "white").save(Path(folder, "snow.png"))
    ...     snow = read(Path(folder, "snow.png"), (1, 28, 28))
    >>> snow.shape, float(snow.min()), float(snow.max())
    ((1, 28, 28), 1.0, 1.0)
    """
    from PIL import Image, ImageOps

    channels, rows, columns = image_shape
    if channels not in CHANNELS:
        raise UnreadablePicture(f"{path}: pictures have one channel or three; this network wants {channels}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                picture = ImageOps.exif_transpose(opened)
                picture = _on_white(picture).convert(CHANNELS[channels])
        fill = tuple(np.median(border(_channels_first(picture)), axis=1).astype(int).tolist())
        picture = ImageOps.pad(picture, (columns, rows), Image.Resampling.BILINEAR, color=fill)
    except FileNotFoundError as error:
        raise UnreadablePicture(f"{path}: no such file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadablePicture(f"{path}: not a picture that can be read: {error}") from error
    return np.divide(_channels_first(picture), 255, dtype=np.float32)


def is_inverted(picture: np.ndarray, mean_brightness: float) -> bool:
    """Whether a picture seems dark on light where a network learnt light on dark, or the other way round.

    Ink on paper is dark on light, but MNIST and the digits are light on dark. The border tells what is background.

    Parameters
    ----------
    picture : array, (channels, rows, columns)
        Pixels in [0, 1].
    mean_brightness : float
        Of the images that the network learnt from: most of an image is background.

    Returns
    -------
    bool

    Examples
    --------
    >>> import numpy as np
    >>> paper = np.ones((1, 28, 28))
    >>> is_inverted(paper, mean_brightness=0.2), is_inverted(1 - paper, mean_brightness=0.2)
    (True, False)
    """
    return bool((np.median(border(picture)) > 0.5) != (mean_brightness > 0.5))


def border(picture: np.ndarray) -> np.ndarray:
    """The outermost pixels of a picture, (channels, pixels).

    Examples
    --------
    >>> import numpy as np
    >>> border(np.arange(9).reshape(1, 3, 3)).tolist()
    [[0, 1, 2, 6, 7, 8, 3, 5]]
    """
    sides = [picture[:, 0], picture[:, -1], picture[:, 1:-1, 0], picture[:, 1:-1, -1]]
    return np.concatenate(sides, axis=1)


def _on_white(picture):
    """The picture without transparency and with 8 bits a pixel."""
    from PIL import Image

    if picture.mode.startswith("I;16"):
        # pillow's own conversion would clip 16 bits to 8 instead of scaling them.
        return Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA"))


def _channels_first(picture) -> np.ndarray:
    """The pixels of a grey or coloured picture, (channels, rows, columns)."""
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
