"""Export a run as a GGUF file, for llama.cpp and programs built on it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llmjax.convert.exporting import Exporter, ExportSource
from llmjax.convert.families.family import Family, canonical
from llmjax.convert.families.registry import FAMILIES
from llmjax.convert.gguf.file import library
from llmjax.convert.gguf.metadata import SAMPLING, llama3_divisors, rope_keys
from llmjax.convert.gguf.reading import TABLES, Gguf, TensorRule, open_gguf
from llmjax.convert.gguf.tokenizer_writing import check_vocabulary, vocabulary_keys
from llmjax.convert.hf.mapping import BoundTable, lazy_tensors
from llmjax.convert.params import model_params
from llmjax.convert.tensors import FLOATS, LazyTensor
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.model.rope import Llama3Scaling
from llmjax.run.origin import Origin, published_generation
from llmjax.version import __version__

QUANTISATIONS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}
"""dtype -> gguf.GGMLQuantizationType; vectors are always float32."""
NUMPY = {kind: FLOATS[name] for name, kind in QUANTISATIONS.items() if name in FLOATS}
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7}
ARCHITECTURES = ("llama", "qwen3", "qwen2")
"""Architectures to try, in order; each has the same name in GGUF and in Transformers."""
SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "vocab_size": "vocab_size",
}
"""Key of the architecture -> field of config.json."""


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
        _read_back(out, family, shape, tensors, kind)
        check_vocabulary(open_gguf(out).file, tokenizer)


def choose_family(shape: ModelConfig) -> Family:
    """The first of ARCHITECTURES with which llama.cpp computes the model exactly.

    Raises:
      UserError: there is none; names the unsupported fields.
    """
    fix = "export it --to hf or --to stablehlo"
    if shape.num_encoder_layers:
        raise UserError("model", "has an encoder, and a GGUF file is of a decoder", fix)
    unsupported = {name: _unsupported(FAMILIES[name], shape) for name in ARCHITECTURES}
    for name, fields in unsupported.items():
        if not fields:
            return FAMILIES[name]
    closest = min(unsupported, key=lambda name: len(unsupported[name]))
    raise UserError(
        "model",
        f"llama.cpp's {closest} does not support {', '.join(unsupported[closest])}",
        fix,
    )


def _unsupported(family: Family, shape: ModelConfig) -> list[str]:
    """The fields that the family, or a GGUF file of it, cannot express."""
    fields = family.unsupported(shape)
    if shape.window is not None and "window" not in fields:
        fields.append("window")
    if family.model_type == "qwen3" and shape.qkv_bias and "qkv_bias" not in fields:
        fields.append("qkv_bias")
    if family.model_type == "qwen2" and shape.head_width * shape.num_heads != shape.d_model:
        fields.append("head_dim")
    if rope_keys(shape) is None:
        fields.append("rope_scaling")
    return fields


def gguf_tensors(family: Family, shape: ModelConfig, params: Params) -> Iterator[LazyTensor]:
    """The tensors to write, with GGUF's names and layouts."""
    table = {rule.name: (name, rule) for name, rule in TABLES[family.model_type].items()}
    config = family.write_config(shape)
    for tensor in lazy_tensors(params, BoundTable(family.table, Model(shape))):
        parts = tensor.name.split(".")
        layer = next((part for part in parts if part.isdigit()), "")
        pattern = tensor.name.replace(f".{layer}.", ".{}.", 1) if layer else tensor.name
        name, rule = table[pattern]
        make = _permuted(tensor, rule, config)
        yield LazyTensor(name.format(layer), tensor.shape, tensor.dtype, make)
    scaling = shape.rope_scaling
    if isinstance(scaling, Llama3Scaling):
        divisors = llama3_divisors(scaling, shape)
        yield LazyTensor("rope_freqs.weight", divisors.shape, divisors.dtype, lambda: divisors)


def _permuted(
    tensor: LazyTensor, rule: TensorRule, config: dict[str, Any]
) -> Callable[[], np.ndarray]:
    def make() -> np.ndarray:
        values = tensor.make()
        return values if rule.order is None else values[np.argsort(rule.order(config, len(values)))]

    return make


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
    writer = gguf.GGUFWriter(path, family.model_type)
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


def model_keys(family: Family, shape: ModelConfig) -> dict[str, Any]:
    """The architecture's metadata."""
    config, name = family.write_config(shape), family.model_type
    values = {key: int(config[field]) for key, field in SIZES.items()} | {
        "attention.layer_norm_rms_epsilon": float(shape.norm_epsilon),
        "attention.key_length": shape.head_width,
        "attention.value_length": shape.head_width,
        "rope.dimension_count": shape.head_width,
        "rope.freq_base": float(shape.rope_theta),
        **(rope_keys(shape) or {}),
    }
    return {f"{name}.{key}": value for key, value in values.items()}


def tensor_kind(tensor: LazyTensor, kind: str) -> str:
    """The type to store a tensor as: `kind`, but F32 for vectors and F16 for partial blocks."""
    if len(tensor.shape) < 2:
        return "F32"
    block, _ = library().GGML_QUANT_SIZES[library().GGMLQuantizationType[kind]]
    return kind if tensor.shape[-1] % block == 0 else "F16"


def quantize(values: np.ndarray, kind: str) -> np.ndarray:
    """Quantise an array; returns its bytes, uint8, row by row."""
    gguf = library()
    wide = np.ascontiguousarray(values, dtype=np.float32)
    stored = gguf.quants.quantize(wide, gguf.GGMLQuantizationType[kind])
    return np.ascontiguousarray(stored).view(np.uint8)


def _read_back(
    path: Path, family: Family, shape: ModelConfig, tensors: Sequence[LazyTensor], kind: str
) -> None:
    """Raise a UserError unless the file holds the model's config and tensors."""
    written = open_gguf(path)
    if canonical(family.read_config(written.config, written)) != canonical(shape):
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
