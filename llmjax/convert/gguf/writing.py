"""A run as a GGUF file, for llama.cpp and what is built on it."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.convert.families import FAMILIES, Family, essence
from llmjax.convert.folders import becoming_file
from llmjax.convert.gguf.file import library
from llmjax.convert.gguf.metadata import add_value
from llmjax.convert.gguf.names import TABLES, Tensor
from llmjax.convert.gguf.reading import Gguf, open_gguf
from llmjax.convert.gguf.rope import llama3_factors, rope_keys
from llmjax.convert.gguf.vocabulary import check_vocabulary, vocabulary_keys
from llmjax.convert.hf.mapping import Match, plan_tensors
from llmjax.convert.stored import model_params, without_adapters
from llmjax.convert.tensors import FLOATS, Planned
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.model.rope import Llama3Scaling
from llmjax.run.folder import Run
from llmjax.version import __version__

KINDS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}
"""--dtype -> gguf.GGMLQuantizationType; vectors are float32 always."""
NUMPY = {kind: FLOATS[name] for name, kind in KINDS.items() if name in FLOATS}
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7}
ARCHITECTURES = ("llama", "qwen3", "qwen2")
"""That are tried, in this order: their names in GGUF are those in Transformers."""

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


def export_gguf(
    run: str | Path, out: str | Path, *, dtype: str | None = None, step: int | None = None
) -> Path:
    """Writes a GGUF file, reads it back and compares every number.

    Args:
      run: the run folder.
      out: the file; it must not exist.
      dtype: float32, float16, bfloat16 or q8_0, of matrices; None for what they are stored in.
      step: which checkpoint; None for the best, of a run that goes by a metric, else for the
        newest complete one.

    Returns:
      `out`.

    Raises:
      UserError: the run cannot be read, llama.cpp has no such model or tokenizer, or `out` exists
        or cannot be written.
    """
    library()
    if dtype is not None and dtype not in KINDS:
        raise UserError(f"dtype {dtype}", "is not known", f"choose one of {', '.join(KINDS)}")
    opened = Run.open(run)
    tokenizer = load_tokenizer(opened.tokenizer)
    shape = resolve(opened.config().model, tokenizer.vocab_size)
    merged = without_adapters(shape)
    family = choose_family(merged)
    keys = {"general.name": opened.folder.resolve().name}
    keys |= vocabulary_keys(tokenizer, shape.vocab_size)
    with becoming_file(Path(out)) as unfinished:
        params = model_params(opened, shape, step, dtype)
        kind = KINDS[dtype or np.dtype(params["embedding"]["rows"].dtype).name]
        tensors = list(planned(family, merged, params))
        write_file(unfinished, family, merged, tensors, kind, keys)
        _read_back(unfinished, family, merged, tensors, kind, tokenizer)
    return Path(out)


def choose_family(shape: ModelConfig) -> Family:
    """The family as which llama.cpp computes a model exactly.

    Raises:
      UserError: there is none; says what is in the way.
    """
    reasons = {name: _obstacles(FAMILIES[name], shape) for name in ARCHITECTURES}
    for name, found in reasons.items():
        if not found:
            return FAMILIES[name]
    closest = min(reasons, key=lambda name: len(reasons[name]))
    raise UserError(
        "model",
        f"llama.cpp's {closest} does not have its {', '.join(reasons[closest])}",
        "export it --to hf or --to stablehlo",
    )


def _obstacles(family: Family, shape: ModelConfig) -> list[str]:
    """What of a model neither Transformers' family nor a GGUF file of it can say."""
    found = family.obstacles(shape)
    if shape.window is not None and "window" not in found:
        found.append("window")
    if family.model_type == "qwen3" and shape.qkv_bias and "qkv_bias" not in found:
        found.append("qkv_bias")
    if family.model_type == "qwen2" and shape.head_width * shape.num_heads != shape.d_model:
        found.append("head_dim")
    if rope_keys(shape) is None:
        found.append("rope_scaling")
    return found


def planned(family: Family, shape: ModelConfig, params: Params) -> Iterator[Planned]:
    """The file's tensors under their own names, in their own layouts."""
    table = {tensor.name: (theirs, tensor) for theirs, tensor in TABLES[family.model_type].items()}
    config = family.write_config(shape)
    for plan in plan_tensors(params, Match(family.table, Model(shape))):
        words = plan.name.split(".")
        layer = next((word for word in words if word.isdigit()), "")
        theirs, tensor = table[plan.name.replace(f".{layer}.", ".{}.", 1) if layer else plan.name]
        yield Planned(theirs.format(layer), plan.shape, plan.dtype, _maker(plan, tensor, config))
    scaling = shape.rope_scaling
    if isinstance(scaling, Llama3Scaling):
        factors = llama3_factors(scaling, shape)
        yield Planned("rope_freqs.weight", factors.shape, factors.dtype, lambda: factors)


def _maker(plan: Planned, tensor: Tensor, config: dict[str, Any]) -> Any:
    def make() -> np.ndarray:
        values = plan.make()
        if tensor.order is None:
            return values
        return values[np.argsort(tensor.order(config, len(values)))]

    return make


def write_file(
    path: Path,
    family: Family,
    shape: ModelConfig,
    tensors: Sequence[Planned],
    kind: str,
    keys: dict[str, Any],
) -> None:
    """Writes the whole file, one tensor at a time.

    Raises:
      OSError: it cannot be written.
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
        kept = gguf.GGMLQuantizationType[kind_of(tensor, kind)]
        size = gguf.quants.quant_shape_to_byte_shape(tensor.shape, kept)
        writer.add_tensor_info(
            tensor.name, size, np.dtype(np.uint8), math.prod(size), raw_dtype=kept
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(encoded(tensor.make(), kind_of(tensor, kind)))
        writer.flush()
    finally:
        writer.close()


def model_keys(family: Family, shape: ModelConfig) -> dict[str, Any]:
    """The metadata of the architecture."""
    config, name = family.write_config(shape), family.model_type
    found = {key: int(config[theirs]) for key, theirs in SIZES.items()} | {
        "attention.layer_norm_rms_epsilon": float(shape.norm_epsilon),
        "attention.key_length": shape.head_width,
        "attention.value_length": shape.head_width,
        "rope.dimension_count": shape.head_width,
        "rope.freq_base": float(shape.rope_theta),
        **(rope_keys(shape) or {}),
    }
    return {f"{name}.{key}": value for key, value in found.items()}


def kind_of(tensor: Planned, kind: str) -> str:
    """What a tensor is stored as: vectors in float32, rows that are no whole blocks in float16."""
    if len(tensor.shape) < 2:
        return "F32"
    block, _ = library().GGML_QUANT_SIZES[library().GGMLQuantizationType[kind]]
    return kind if tensor.shape[-1] % block == 0 else "F16"


def encoded(values: np.ndarray, kind: str) -> np.ndarray:
    """The bytes of an array, uint8, rows apart."""
    gguf = library()
    wide = np.ascontiguousarray(values, dtype=np.float32)
    stored = gguf.quants.quantize(wide, gguf.GGMLQuantizationType[kind])
    return np.ascontiguousarray(stored).view(np.uint8)


def _read_back(
    path: Path,
    family: Family,
    shape: ModelConfig,
    tensors: Sequence[Planned],
    kind: str,
    tokenizer: Tokenizer,
) -> None:
    """Checks that the file says what it should.

    Raises:
      UserError: it does not, or its tokenizer is not the run's.
    """
    written = open_gguf(path)
    if essence(family.read_config(written.config, written)) != essence(shape):
        raise UserError("GGUF", "the file does not read back as the model that it is of")
    for tensor in tensors:
        if not _same(written, tensor, kind_of(tensor, kind)):
            raise UserError(f"tensor {tensor.name}", "does not read back as it was written")
    check_vocabulary(written.file, tokenizer)


def _same(written: Gguf, tensor: Planned, kind: str) -> bool:
    """Equal bits, but for blocks of q8_0: there within half a step, and what rounds the step."""
    wanted = tensor.make().astype(np.float32)
    there = written.stored_values(tensor.name).reshape(tensor.shape).astype(np.float32)
    if kind != "Q8_0":
        return bool(np.array_equal(there, wanted.astype(NUMPY[kind]).astype(np.float32)))
    there, wanted = there.reshape(-1, 32), wanted.reshape(-1, 32)
    largest = np.abs(wanted).max(-1, keepdims=True)
    return bool((np.abs(there - wanted) <= largest * (0.51 / 127 + 2.0**-11) + 1e-7).all())
