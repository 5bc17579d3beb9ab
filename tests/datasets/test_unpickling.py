import os
import pickle
import re
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_files import damaged, make_pictures, python2_array, python2_batch, read_bytes

from pytensor_convnet.datasets import unpickling
from pytensor_convnet.datasets.base import CorruptData

TABLE = make_pictures(2, (6,))
PYTHON2 = python2_batch(TABLE, [7, 2])
PYTHON3 = pickle.dumps({b"data": TABLE, b"labels": [7, 2]}, protocol=2)


class Reduced:
    """Pickled as the call of ``function`` with ``arguments``."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def read(content):
    return read_bytes(unpickling.read_pickle, content)


def refused(sentence):
    return pytest.raises(CorruptData, match=re.escape(sentence))


# ------------------------------------------------------------------------------------------- what is read


def test_a_pickle_of_python_2_is_read():
    batch = read(PYTHON2)
    assert list(batch) == ["batch_label", "labels", "data", "filenames"]
    assert batch["batch_label"] == "training batch 1 of 5"
    assert batch["labels"] == [7, 2]
    assert batch["filenames"][1] == "leptodactylus_s_000002.png"
    assert batch["data"].dtype == np.uint8
    np.testing.assert_array_equal(batch["data"], TABLE)


def test_the_made_up_python_2_pickle_is_one_to_python_too():
    batch = pickle.loads(PYTHON2, encoding="bytes")
    np.testing.assert_array_equal(batch[b"data"], TABLE)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("key", ["data", b"data"], ids=["str", "bytes"])
def test_a_pickle_of_python_3_is_read(protocol, key):
    np.testing.assert_array_equal(read(pickle.dumps({key: TABLE}, protocol=protocol))["data"], TABLE)


def test_the_old_name_of_numpys_module_is_read():
    content = PYTHON3.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(read(content)["data"], TABLE)


def test_an_array_stored_by_columns_is_read():
    content = pickle.dumps({"data": np.asfortranarray(TABLE)}, protocol=2)
    np.testing.assert_array_equal(read(content)["data"], TABLE)


def test_a_string_past_255_bytes_is_read():
    table = make_pictures(2, (300,))
    np.testing.assert_array_equal(read(python2_batch(table, [1, 2]))["data"], table)


@pytest.mark.parametrize("value", [None, True, False, (), 0, 255, 70000, -5, 2**40, [], {}, (1, 2, 3, 4, 5)])
def test_plain_values_are_read(value):
    assert read(pickle.dumps({"value": value}, protocol=2)) == {"value": value}


# ---------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("protocol", range(5))
def test_a_call_of_os_system_is_refused_and_not_made(protocol, tmp_path):
    trace = tmp_path / "trace"
    content = pickle.dumps({"data": TABLE, "labels": Reduced(os.system, f"touch {trace}")}, protocol=max(protocol, 2))
    if protocol < 2:
        content = pickle.dumps(Reduced(os.system, f"touch {trace}"), protocol=protocol)
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    name = f"{os.system.__module__}.system"
    with refused(f"{path}: refused the global '{name}', which no such data set needs; it was not imported"):
        unpickling.read_pickle(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "function",
    [eval, exec, getattr, __import__, np.load, np.zeros, np.frombuffer, bytes.fromhex],
    ids=lambda function: function.__name__,
)
def test_other_functions_are_refused(function):
    with refused("refused the global "):
        read(pickle.dumps({"data": Reduced(function, "x")}, protocol=4))


def test_the_instruction_that_imports_and_calls_at_once_is_refused():
    with refused("found instruction INST 'os system'"):
        read(b"(ios\nsystem\n.")


@pytest.mark.parametrize("instruction", [b"\x82\x01", b"P1\n", b"(ios\nsystem\n", b"}(}\x81", b"]o"])
def test_instructions_that_make_objects_are_refused(instruction):
    with refused("expected a dictionary of strings, integers, lists and arrays of bytes, found instruction"):
        read(b"\x80\x02" + instruction + b".")


@pytest.mark.parametrize("dtype", ["O", "f8", "V8", "U3", "u2", [("field", "u1")]])
def test_arrays_of_anything_but_bytes_are_refused(dtype):
    with refused("expected an array of bytes (numpy.dtype 'u1')"):
        read(pickle.dumps({"data": np.zeros(3, dtype)}, protocol=2))


def test_a_made_up_shape_allocates_nothing():
    rows, columns = (struct.pack("<H", length) for length in TABLE.shape)
    huge = python2_array(TABLE).replace(b"M" + rows + b"M" + columns, b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f")
    with refused("expected 12 bytes in a table, found shape (2147483647, 2147483647)"):
        read(b"\x80\x02}U\x04data" + huge + b"s.")


def test_a_negative_length_is_refused():
    rows, columns = (struct.pack("<H", length) for length in TABLE.shape)
    negative = python2_array(TABLE).replace(b"M" + rows + b"M" + columns, b"J\xfe\xff\xff\xffJ\xfa\xff\xff\xff")
    with refused("expected an array's shape, found (-2, -6)"):
        read(b"\x80\x02}U\x04data" + negative + b"s.")


def test_an_array_made_in_a_shape_is_refused():
    content = PYTHON2.replace(b"K\x00\x85q\x07", b"K\x63\x85q\x07")
    with refused("found a call of the global _reconstruct with (Global(name='numpy.ndarray'), (99,), 'b')"):
        read(content)


def test_a_direct_call_of_ndarray_is_refused():
    with refused("found a call of the global numpy.ndarray with (1000000000,)"):
        read(b"\x80\x02cnumpy\nndarray\nJ\x00\xca\x9a\x3b\x85R.")


def test_another_encoding_is_refused():
    with refused("found a call of the global _codecs.encode with ('x', 'zlib')"):
        read(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x04\x00\x00\x00zlib\x86R.")


def test_text_outside_latin_1_is_refused():
    text = "\u20ac".encode()
    with refused("expected Latin-1 text, found 'latin-1' codec can't encode"):
        read(b"\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00" + text + b"X\x06\x00\x00\x00latin1\x86R.")


def test_state_cannot_be_given_to_a_global():
    with refused("found content for the global numpy.ndarray"):
        read(b"\x80\x02cnumpy\nndarray\n}U\x01xK\x01sb.")


def test_an_array_without_content_is_refused():
    content = b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87Rs."
    with refused("expected a pickled array with its content, found one without"):
        read(content)


def test_one_text_cannot_become_bytes_again_and_again(monkeypatch):
    monkeypatch.setattr(unpickling, "LARGEST_FILE", 25)
    call = b"c_codecs\nencode\nX\x0a\x00\x00\x000123456789X\x06\x00\x00\x00latin1\x86R"
    read(b"\x80\x02}U\x01a" + call + b"sU\x01b" + call + b"s.")
    with refused("expected at most 25 bytes, found more"):
        read(b"\x80\x02}U\x01a" + call + b"sU\x01b" + call + b"sU\x01c" + call + b"s.")


def test_endless_instructions_are_refused(monkeypatch):
    monkeypatch.setattr(unpickling, "MOST_INSTRUCTIONS", 100)
    with refused("expected at most 100 pickle instructions, found more"):
        read(b"\x80\x02" + b"(" * 200)


def test_keys_too_deep_to_hash_are_refused():
    with refused("expected short strings as keys, found (((((((...),"):
        read(b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.")


def test_values_too_deep_to_print_are_only_hinted_at():
    with refused("found a call of tuple with ()"):
        read(b"\x80\x02)" + b"\x85" * 100_000 + b")R.")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "expected a whole pickle, found it damaged: pickle exhausted before seeing STOP"),
        (b"not a pickle", "expected a whole pickle, found it damaged"),
        (PYTHON2[:-1], "expected a whole pickle, found it damaged: pickle exhausted before seeing STOP"),
        (b"\x80\x02}.}", "expected the end after 4 bytes, found 5 bytes"),
        (b"\x80\x02].", "expected a pickled dictionary, found list"),
        (b"\x80\x02.", "an instruction that lacks its operand"),
        (b"\x80\x02t.", "an instruction that lacks its mark"),
        (b"\x80\x02h\x05.", "a reference to value 5, which it lacks"),
        (b"\x80\x02}Na.", "expected a list to append to, found dict"),
        (b"\x80\x02]NNs.", "expected a dictionary and pairs of key and value, found list"),
        (b"\x80\x02}(Nu.", "expected a dictionary and pairs of key and value, found dict"),
        (b"\x80\x04NN\x93.", "expected a global's name, found NoneType and NoneType"),
    ],
)
def test_a_damaged_pickle_says_where_it_breaks(content, sentence):
    with refused(sentence):
        read(content)


# ------------------------------------------------------------------------------------------------- damage


def loads_or_is_corrupt(content):
    with suppress(CorruptData):
        assert isinstance(read(content), dict)


@settings(max_examples=300, deadline=None)
@given(damaged(PYTHON2, frail=400))
def test_a_damaged_pickle_of_python_2_loads_or_is_corrupt(content):
    loads_or_is_corrupt(content)


@settings(max_examples=300, deadline=None)
@given(damaged(PYTHON3, frail=400))
def test_a_damaged_pickle_of_python_3_loads_or_is_corrupt(content):
    loads_or_is_corrupt(content)


PIECES = [
    *(bytes([code]) for code in b"(.0123]})aeustbR\x85\x86\x87\x88\x89N\x93\x94\x81lod"),
    b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"c_codecs\nencode\n",
    b"cos\nsystem\n",
    b"U\x02u1",
    b"U\x01b",
    b"X\x06\x00\x00\x00latin1",
    b"K\x00",
    b"q\x01",
    b"h\x01",
    b"r\xff\xff\xff\xff",
    b"\x8a\x02\xff\xff",
    b"L" + b"9" * 5000 + b"L\n",
    b"\x8b\x00\x10\x00\x00" + b"\x7f" * 4096,
]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25))
def test_any_program_loads_or_is_corrupt(pieces):
    loads_or_is_corrupt(b"\x80\x02}" + b"".join(pieces) + b".")


@pytest.mark.parametrize("piece", PIECES)
def test_each_instruction_alone_loads_or_is_corrupt(piece):
    loads_or_is_corrupt(b"\x80\x02}" + piece + b".")
