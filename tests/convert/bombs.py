"""Small files that would expand to huge data, of each format that an import reads."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hf_models
import numpy as np

MODEL = "model.safetensors"
INDEX = "model.safetensors.index.json"
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 264,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
T5: dict[str, Any] = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "vocab_size": 264,
    "d_model": 8,
    "d_kv": 4,
    "d_ff": 12,
    "num_layers": 2,
    "num_heads": 2,
}
DEEP = "[" * 90_000 + "]" * 90_000


def header(content: bytes, data: bytes = b"") -> bytes:
    """A safetensors file with this header."""
    return len(content).to_bytes(8, "little") + content + data


def tensors(**entries: Any) -> bytes:
    """A safetensors file with these entries and some data."""
    return header(json.dumps(entries).encode(), bytes(64))


def entry(**changed: Any) -> bytes:
    """A file of one tensor with a malformed entry."""
    return tensors(x={"dtype": "F32", "shape": [16], "data_offsets": [0, 64]} | changed)


def _config(folder: Path, **fields: Any) -> None:
    base = T5 if fields.get("model_type") == "t5" else LLAMA
    (folder / "config.json").write_text(json.dumps(base | fields))


def _weights(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / MODEL).write_bytes(content) and None


def _text(name: str, content: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(content)

    return write


def _numbered(count: int, before: bytes, after: bytes) -> bytes:
    """`before`, a number of eight digits and `after`, for so many numbers."""
    parts = [("before", f"V{len(before)}"), ("number", "S8"), ("after", f"V{len(after)}")]
    records = np.empty(count, parts)
    records["before"], records["after"] = np.void(before), np.void(after)
    records["number"] = np.arange(10**7, 10**7 + count).astype("S8")
    return records.tobytes()


def _large_header(folder: Path) -> None:
    """90 MB of small values."""
    body = b'{"__metadata__":{' + b'"10000000":"",' * 6_900_000 + b'"":""}}'
    (folder / MODEL).write_bytes(header(body))


def _many_names(folder: Path) -> None:
    entry = b'":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
    (folder / MODEL).write_bytes(header(b"{" + _numbered(300_000, b'"', entry)[:-1] + b"}"))


def _fifo(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return make


def _device(folder: Path) -> None:
    (folder / "x.safetensors").symlink_to("/dev/zero")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"x": "x.safetensors"}}))


def _folder(folder: Path) -> None:
    (folder / MODEL).mkdir()


def _fifo_shard(folder: Path) -> None:
    os.mkfifo(folder / "x.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"x": "x.safetensors"}}))


def _index_of_many(folder: Path) -> None:
    """An index of 700,000 missing tensors."""
    names = _numbered(700_000, b'"', b'":"x.safetensors",')[:-1]
    (folder / "x.safetensors").write_bytes(header(b"{}"))
    (folder / INDEX).write_bytes(b'{"weight_map":{' + names + b"}}")


def _fields(**fields: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        _config(folder, **fields)
        (folder / MODEL).write_bytes(header(b"{}"))

    return make


def _modules(folder: Path) -> None:
    (folder / "modules.json").write_text(DEEP)


def _index(folder: Path) -> None:
    (folder / INDEX).write_text('{"weight_map":' + DEEP + "}")


def _generation(folder: Path) -> None:
    (folder / MODEL).write_bytes(header(b"{}"))
    (folder / "generation_config.json").write_text('{"a":' + DEEP + "}")


def _generation_fifo(folder: Path) -> None:
    (folder / MODEL).write_bytes(header(b"{}"))
    os.mkfifo(folder / "generation_config.json")


FOLDERS: dict[str, Callable[[Path], None]] = {
    "header of 90 MB": _large_header,
    "300,000 tensors": _many_names,
    "deep header": _weights(header(('{"x":' + DEEP + "}").encode())),
    "dtype is a list": _weights(entry(dtype=[])),
    "dtype is an object": _weights(entry(dtype={})),
    "shape is an object": _weights(entry(shape={}, data_offsets=[0, 4])),
    "shape is a string": _weights(entry(shape="16")),
    "shape is a number": _weights(entry(shape=16)),
    "offsets are an object": _weights(entry(data_offsets={"0": 0, "64": 64})),
    "negative shape": _weights(entry(shape=[-4, -4])),
    "shape beyond 64 bits": _weights(entry(shape=[2**40, 2**40])),
    "million dimensions": _weights(entry(shape=[2**63] * 300_000)),
    "entry is a list": _weights(tensors(x=[])),
    "FIFO": _fifo("x.safetensors"),
    "FIFO as model.safetensors": _fifo(MODEL),
    "FIFO in an index": _fifo_shard,
    "device in an index": _device,
    "folder": _folder,
    "index of 700,000": _index_of_many,
    "deep index": _index,
    "deep config.json": _text("config.json", DEEP),
    "deep generation_config.json": _generation,
    "deep modules.json": _modules,
    "FIFO as config.json": _fifo("config.json"),
    "FIFO as generation_config.json": _generation_fifo,
    "million layers": _fields(num_hidden_layers=10**6),
    "million decoder layers": _fields(model_type="t5", num_decoder_layers=10**6),
    "million encoder layers": _fields(model_type="t5", num_layers=10**6, num_decoder_layers=2),
    "width of 10^12": _fields(hidden_size=10**12),
    "vocabulary of 10^12": _fields(vocab_size=10**12),
    "10^12 heads": _fields(num_attention_heads=10**12),
    "number of 5,000 digits": _text("config.json", '{"hidden_size":' + "9" * 5000 + "}"),
}
"""Name -> edit of a folder that has a config.json."""


def make(folder: Path, name: str) -> Path:
    """Write a bomb's folder."""
    folder.mkdir(parents=True)
    _config(folder)
    hf_models.write_tokenizer(folder)
    FOLDERS[name](folder)
    return folder


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _gguf(tensors: int, entries: int, body: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + body


_ARCHITECTURE = _string(b"general.architecture") + struct.pack("<I", 8) + _string(b"llama")
_EMPTY = 10_000_000
GGUFS: dict[str, Callable[[], bytes]] = {
    "2^60 tensors": lambda: _gguf(2**60, 0, b""),
    "2^60 entries": lambda: _gguf(0, 2**60, b""),
    "string of 2^63": lambda: _gguf(0, 1, struct.pack("<Q", 2**63) + bytes(100)),
    "array of 2^61": lambda: _gguf(
        0, 1, _string(b"a") + struct.pack("<IIQ", 9, 4, 2**61) + bytes(100)
    ),
    "array of arrays": lambda: _gguf(
        0, 1, _string(b"a") + struct.pack("<IIQ", 9, 9, 3) + struct.pack("<IQ", 9, 1) * 1000
    ),
    "10,000,000 strings": lambda: _gguf(
        0, 1, _string(b"a") + struct.pack("<IIQ", 9, 8, _EMPTY) + _string(b"") * _EMPTY
    ),
    "1,000,000 entries": lambda: _gguf(
        0,
        1_000_000,
        _numbered(1_000_000, struct.pack("<Q", 8), struct.pack("<IB", 0, 1)),
    ),
    "1,000,000 tensors": lambda: _gguf(
        1_000_000,
        1,
        _ARCHITECTURE
        + _numbered(1_000_000, struct.pack("<Q", 8), struct.pack("<IQIQ", 1, 1, 0, 0))
        + bytes(64),
    ),
    "string of 100 MB": lambda: _gguf(
        0, 1, _string(b"a") + struct.pack("<I", 8) + _string(b"a" * 100_000_000)
    ),
    "shape beyond 64 bits": lambda: _gguf(
        1,
        1,
        _ARCHITECTURE
        + _string(b"token_embd.weight")
        + struct.pack("<IQQIQ", 2, 2**63, 2**63, 0, 0)
        + bytes(64),
    ),
}
