"""safetensors files are accepted exactly if the reference implementation accepts them."""

import json

import numpy as np
import pytest

from llmjax.convert.hf.safetensors import TensorFiles, read_header
from llmjax.errors import UserError

SIZE = 64


def entry(begin, end, dtype="F32", shape=None):
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS = {
    "one": ({"a": entry(0, 64)}, True),
    "two": ({"a": entry(0, 16), "b": entry(16, 64)}, True),
    "in another order": ({"b": entry(16, 64), "a": entry(0, 16)}, True),
    "with metadata": ({"__metadata__": {"format": "pt"}, "a": entry(0, 64)}, True),
    "empty ones": ({"a": entry(0, 64), "b": entry(64, 64), "c": entry(0, 0)}, True),
    "an empty one between": ({"a": entry(0, 32), "e": entry(32, 32), "b": entry(32, 64)}, True),
    "the same bytes": ({"a": entry(0, 64), "b": entry(0, 64)}, False),
    "overlap": ({"a": entry(0, 36), "b": entry(32, 64)}, False),
    "one within another": ({"a": entry(0, 64), "b": entry(16, 32)}, False),
    "hole at the start": ({"a": entry(4, 64)}, False),
    "hole": ({"a": entry(0, 16), "b": entry(32, 64)}, False),
    "bytes behind": ({"a": entry(0, 32)}, False),
    "nothing but bytes": ({}, False),
    "beyond the file": ({"a": entry(0, 128)}, False),
    "backwards": ({"a": entry(64, 0, shape=[16])}, False),
    "another size": ({"a": entry(0, 64, shape=[15])}, False),
    "negative": ({"a": entry(0, 64, shape=[-16])}, False),
    "two negatives": ({"a": entry(0, 64, shape=[-4, -4])}, False),
    "beyond 64 bits": ({"a": entry(0, 64), "b": entry(64, 64, shape=[2**40, 2**40, 0])}, False),
    "unknown dtype": ({"a": entry(0, 64, "F33")}, False),
    "dtype is a list": ({"a": entry(0, 64, [])}, False),
    "shape is an object": ({"a": entry(0, 64, shape={})}, False),
    "shape is a word": ({"a": entry(0, 64, shape="16")}, False),
    "float shape": ({"a": entry(0, 64, shape=[16.0])}, False),
    "bool shape": ({"a": entry(0, 4, shape=[True]), "b": entry(4, 64)}, False),
    "three offsets": ({"a": entry(0, 64) | {"data_offsets": [0, 32, 64]}}, False),
    "no offsets": ({"a": {"dtype": "F32", "shape": [16]}}, False),
    "a list": ([], False),
}
"""Name -> (header of 64 bytes of data, whether safetensors 0.8 accepts it)."""


@pytest.fixture(params=HEADERS)
def file(request, tmp_path):
    header, good = HEADERS[request.param]
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(range(SIZE)))
    return path, header, good


def test_headers(file):
    path, header, good = file
    if good:
        files = TensorFiles(read_header(path))
        for name in files.names():
            begin, end = header[name]["data_offsets"]
            assert files.read(name).tobytes() == bytes(range(begin, end))
    else:
        with pytest.raises(UserError):
            read_header(path)


def test_the_reference_does_so(file):
    safetensors = pytest.importorskip("safetensors")
    numpy = pytest.importorskip("safetensors.numpy")
    path, _, good = file
    if good:
        files, expected = TensorFiles(read_header(path)), numpy.load_file(path)
        assert all(np.array_equal(files.read(name), expected[name]) for name in expected)
    else:
        with pytest.raises(safetensors.SafetensorError):
            numpy.load_file(path)
