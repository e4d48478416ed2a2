"""Export a run as a GGUF file, for llama.cpp and programs built on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llmjax.convert.exporting import Exporter, ExportSource
from llmjax.convert.families.family import Family, canonical
from llmjax.convert.gguf.file import library
from llmjax.convert.gguf.metadata import SAMPLING
from llmjax.convert.gguf.models import ARCHITECTURES, choose_family, gguf_tensors, model_keys
from llmjax.convert.gguf.reading import Gguf, open_gguf
from llmjax.convert.gguf.tokenizer_writing import check_vocabulary, vocabulary_keys
from llmjax.convert.params import model_params
from llmjax.convert.tensors import FLOATS, LazyTensor
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.run.origin import Origin, published_generation
from llmjax.version import __version__

QUANTISATIONS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}
"""dtype -> gguf.GGMLQuantizationType; vectors are always float32."""
NUMPY = {kind: FLOATS[name] for name, kind in QUANTISATIONS.items() if name in FLOATS}
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7}
ALWAYS_FLOAT = ("ffn_gate_inp.weight", "_norm.weight", ".bias")
"""Ends of names of tensors that llama.cpp computes in float32: routers, norms, and biases of
experts."""


@dataclass(frozen=True)
class GgufExporter(Exporter):
    """Writes a GGUF file, reads it back and compares all tensors.

    The dtype applies to matrices; q8_0 is llama.cpp's 8-bit quantisation.
    """

    dtypes: ClassVar = tuple(QUANTISATIONS)
    single_file: ClassVar = True

    def check(self) -> None:
        library()

    def write(self, source: ExportSource, out: Path) -> None:
        shape, tokenizer = source.merged_shape, source.tokenizer
        family = choose_family(shape)
        keys = {"general.name": source.run.folder.resolve().name}
        keys |= vocabulary_keys(tokenizer, shape.vocab_size)
        keys |= sampling_keys(source.origin)
        params = model_params(source.run, source.shape, source.step, source.dtype)
        kind = QUANTISATIONS[source.dtype or np.dtype(params["embedding"]["rows"].dtype).name]
        tensors = list(gguf_tensors(family, shape, params))
        write_file(out, family, shape, tensors, kind, keys)
        _read_back(out, shape, tensors, kind)
        check_vocabulary(open_gguf(out).file, tokenizer)


def write_file(
    path: Path,
    family: Family,
    shape: ModelConfig,
    tensors: Sequence[LazyTensor],
    kind: str,
    keys: dict[str, Any],
) -> None:
    """Write the file, one tensor at a time.

    Raises:
      OSError: the file cannot be written.
    """
    gguf = library()
    writer = gguf.GGUFWriter(path, ARCHITECTURES[family.model_type])
    writer.add_type("model")
    writer.add_string("general.description", f"exported by llmjax {__version__}")
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in (model_keys(family, shape) | keys).items():
        add_value(writer, key, value)
    for tensor in tensors:
        stored = gguf.GGMLQuantizationType[tensor_kind(tensor, kind)]
        size = gguf.quants.quant_shape_to_byte_shape(tensor.shape, stored)
        writer.add_tensor_info(
            tensor.name, size, np.dtype(np.uint8), math.prod(size), raw_dtype=stored
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(quantize(tensor.make(), tensor_kind(tensor, kind)))
        writer.flush()
    finally:
        writer.close()


def sampling_keys(origin: Origin | None) -> dict[str, Any]:
    """The sampling that the model's publisher recommends; none of it if that is greedy decoding."""
    stored = published_generation(origin)
    if stored.get("do_sample") is False:
        return {}
    numbers = {name: stored.get(name) for name in SAMPLING}
    return {
        SAMPLING[name]: np.int32(value) if name == "top_k" else float(value)
        for name, value in numbers.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**31
    }


def add_value(writer: Any, key: str, value: Any) -> None:
    """Add a value to a gguf.GGUFWriter, with the type that llama.cpp expects."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case np.integer():
            writer.add_int32(key, int(value))
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def tensor_kind(tensor: LazyTensor, kind: str) -> str:
    """The type to store a tensor as: `kind`, but F32 for vectors, routers, norms and biases, and
    F16 for partial blocks."""
    if len(tensor.shape) < 2 or tensor.name.endswith(ALWAYS_FLOAT):
        return "F32"
    block, _ = library().GGML_QUANT_SIZES[library().GGMLQuantizationType[kind]]
    return kind if tensor.shape[-1] % block == 0 else "F16"


def quantize(values: np.ndarray, kind: str) -> np.ndarray:
    """Quantise an array; returns its bytes, uint8, row by row."""
    gguf = library()
    wide = np.ascontiguousarray(values, dtype=np.float32)
    stored = gguf.quants.quantize(wide, gguf.GGMLQuantizationType[kind])
    return np.ascontiguousarray(stored).view(np.uint8)


def _read_back(path: Path, shape: ModelConfig, tensors: Sequence[LazyTensor], kind: str) -> None:
    """Raise a UserError unless the file holds the model's config and tensors."""
    written = open_gguf(path)
    if canonical(written.read_config()) != canonical(shape):
        raise UserError("GGUF", "the file does not read back as the exported model")
    for tensor in tensors:
        if not _reads_back(written, tensor, tensor_kind(tensor, kind)):
            raise UserError(f"tensor {tensor.name}", "does not read back as it was written")


def _reads_back(written: Gguf, tensor: LazyTensor, kind: str) -> bool:
    """Whether values are equal; for Q8_0, within half a step plus the rounding of its scale."""
    expected = tensor.make().astype(np.float32)
    stored = written.stored_values(tensor.name).reshape(tensor.shape).astype(np.float32)
    if kind != "Q8_0":
        return bool(np.array_equal(stored, expected.astype(NUMPY[kind]).astype(np.float32)))
    stored, expected = stored.reshape(-1, 32), expected.reshape(-1, 32)
    largest = np.abs(expected).max(-1, keepdims=True)
    return bool((np.abs(stored - expected) <= largest * (0.51 / 127 + 2.0**-11) + 1e-7).all())
