"""Pictures from files: sizes, colours, transparency, and which way round light and dark are."""

import numpy as np
import pytest
from PIL import Image

from pytensor_convnet import pictures
from pytensor_convnet.pictures import UnreadablePicture


def saved(tmp_path, picture, name="picture.png", **arguments):
    path = tmp_path / name
    picture.save(path, **arguments)
    return path


def test_a_picture_of_the_right_size_is_not_changed(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype="uint8")
    picture = pictures.read(saved(tmp_path, Image.fromarray(pixels)), (1, 28, 28))
    assert picture.dtype == np.float32
    np.testing.assert_allclose(picture[0], pixels / 255, rtol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_kind_of_pixels_becomes_the_channels_wanted(tmp_path, mode, channels):
    picture = Image.new("L", (40, 40), "white")
    picture.paste(0, (0, 0, 40, 20))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture).astype("uint16") * 257)
    else:
        picture = picture.convert("RGB").convert(mode)
    path = saved(tmp_path, picture, "picture.tif" if mode == "CMYK" else "picture.png")
    taken = pictures.read(path, (channels, 20, 20))
    assert taken.shape == (channels, 20, 20)
    np.testing.assert_allclose(taken[:, :9], 0, atol=0.01)
    np.testing.assert_allclose(taken[:, 11:], 1, atol=0.01)


def test_colours_keep_their_channels(tmp_path):
    taken = pictures.read(saved(tmp_path, Image.new("RGB", (9, 9), (255, 51, 0))), (3, 16, 16))
    np.testing.assert_allclose(taken, np.broadcast_to(np.array([1, 0.2, 0])[:, None, None], (3, 16, 16)), atol=1e-6)


def test_proportions_are_kept_and_the_rest_filled_with_the_border(tmp_path):
    picture = Image.new("L", (60, 20), 200)
    picture.paste(0, (20, 4, 40, 16))
    taken = pictures.read(saved(tmp_path, picture), (1, 30, 30))[0]
    np.testing.assert_allclose(taken[:9], 200 / 255, atol=0.01)
    rows, columns = np.nonzero(taken < 0.4)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (6, 10)


def test_transparent_ground_is_white(tmp_path):
    drawing = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    drawing.paste((0, 0, 0, 255), (8, 8, 12, 12))
    taken = pictures.read(saved(tmp_path, drawing), (1, 20, 20))
    assert taken[0, 0, 0] == 1
    assert taken[0, 10, 10] == 0


def test_photographs_are_turned_the_way_the_camera_was_held(tmp_path):
    picture = Image.new("L", (20, 20))
    picture.paste(255, (0, 0, 20, 5))
    exif = Image.Exif()
    exif[0x0112] = 3  # held upside down
    taken = pictures.read(saved(tmp_path, picture, "photograph.jpg", exif=exif), (1, 20, 20))[0]
    assert taken[:10].mean() < 0.1
    assert taken[-4:].mean() > 0.9


@pytest.mark.parametrize(
    ("ground", "mean", "inverted"), [(0.9, 0.1, True), (0.1, 0.1, False), (0.9, 0.8, False), (0.1, 0.8, True)]
)
def test_the_border_tells_whether_light_and_dark_are_swapped(ground, mean, inverted):
    picture = np.full((1, 28, 28), ground)
    picture[:, 0:20, 12:16] = 1 - ground  # a stroke may touch the border
    assert pictures.is_inverted(picture, mean) is inverted


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2)])
def test_tiny_pictures_work(tmp_path, size):
    assert pictures.read(saved(tmp_path, Image.new("L", size, 128)), (1, 28, 28)).shape == (1, 28, 28)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UnreadablePicture, match=r"nothing.png: no such file"):
        pictures.read(tmp_path / "nothing.png", (1, 28, 28))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"BM" + bytes(20), b"GIF89a"])
def test_a_file_that_is_no_picture_is_refused(tmp_path, content):
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(UnreadablePicture, match=r"picture.png: not a picture that can be read"):
        pictures.read(path, (1, 28, 28))


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg", "picture.gif", "picture.tif"])
def test_a_truncated_picture_is_refused(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype="uint8")
    path = saved(tmp_path, Image.fromarray(noise), name)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(UnreadablePicture, match=name):
        pictures.read(path, (1, 28, 28))


def test_a_picture_too_large_to_unpack_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    with pytest.raises(UnreadablePicture, match="exceeds limit"):
        pictures.read(path, (1, 28, 28))


def test_a_network_that_wants_two_channels_takes_no_pictures(tmp_path):
    with pytest.raises(UnreadablePicture, match="this network wants 2"):
        pictures.read(tmp_path / "picture.png", (2, 28, 28))
