"""Small files in the formats of the data sets, and damaged ones."""

import gzip
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st


def idx(values: np.ndarray) -> bytes:
    """``values`` as an idx file of bytes."""
    header = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + values.astype(np.uint8).tobytes()


def make_pictures(count: int, shape: tuple[int, ...] = (28, 28), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def write_mnist(folder: Path, train: int = 12, test: int = 5, ending: str = "", dot: bool = False) -> None:
    """The four files of MNIST with few images; labels count 1, 2, 3 and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        images, labels = make_pictures(count), np.arange(1, count + 1) % 10
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            name = f"{part}-{kind}-ubyte{ending}"
            content = idx(values)
            path = folder / (name.replace("-idx", ".idx") if dot else name)
            path.write_bytes(gzip.compress(content) if ending == ".gz" else content)


def python2_string(text: bytes) -> bytes:
    """``text`` as cPickle of Python 2 writes a str: SHORT_BINSTRING or BINSTRING."""
    if len(text) < 256:
        return b"U" + bytes([len(text)]) + text
    return b"T" + struct.pack("<i", len(text)) + text


def python2_array(values: np.ndarray) -> bytes:
    """A table of bytes as NumPy 1 under Python 2 pickled it."""
    rows, columns = values.shape
    return (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85q\x07U\x01b\x87q\x08Rq\x09"
        b"(K\x01M" + struct.pack("<H", rows) + b"M" + struct.pack("<H", columns) + b"\x86q\x0a"
        b"cnumpy\ndtype\nq\x0bU\x02u1q\x0cK\x00K\x01\x87q\x0dRq\x0e"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + python2_string(values.tobytes()) + b"tb"
    )


def python2_batch(data: np.ndarray, labels: list[int]) -> bytes:
    """A batch of CIFAR-10's Python version, instruction by instruction as published."""
    names = b"".join(python2_string(b"leptodactylus_s_%06d.png" % number) for number in labels)
    return (
        b"\x80\x02}q\x01("
        + python2_string(b"batch_label")
        + python2_string(b"training batch 1 of 5")
        + python2_string(b"labels")
        + b"]q\x02("
        + b"".join(b"K" + bytes([label]) for label in labels)
        + b"e"
        + python2_string(b"data")
        + python2_array(data)
        + python2_string(b"filenames")
        + b"]q\x03("
        + names
        + b"eu."
    )


@st.composite
def damaged(draw: Any, whole: bytes, frail: int = 120) -> bytes:
    """``whole`` cut short, prolonged, or with bytes changed, mostly among the ``frail`` at either end."""
    content = bytearray(whole)
    last = len(whole) - 1
    near_an_end = st.integers(0, min(frail, last)) | st.integers(max(0, last - frail), last)
    for position in draw(st.lists(near_an_end | st.integers(0, last), max_size=3)):
        content[position] = draw(st.integers(0, 255))
    content += draw(st.binary(max_size=3))
    return bytes(content[: draw(st.none() | st.integers(0, last))])


def read_bytes(read: Callable[[Path], Any], content: bytes) -> Any:
    """What ``read`` makes of a file that holds ``content``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_bytes(content)
        return read(path)
