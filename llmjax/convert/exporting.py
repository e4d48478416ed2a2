"""A run becomes what others load: the folder that Transformers, vLLM, SGLang and TGI read."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from llmjax.convert.families import Family, essence, family_of
from llmjax.convert.folders import becoming
from llmjax.convert.forms import form_of, sentence_of
from llmjax.convert.hf.heads import Headed, choose_task
from llmjax.convert.hf.reading import read_object
from llmjax.convert.hf.safetensors import TensorFiles, read_header
from llmjax.convert.hf.safetensors_writing import SHARD_BYTES, write_folder
from llmjax.convert.hf.sentence_writing import write_sentence
from llmjax.convert.hf.tokenizer_files import export_tokenizer
from llmjax.convert.hf.weight_files import open_folder
from llmjax.convert.stored import merged_params, without_adapters
from llmjax.convert.tensors import FLOATS, Planned, TensorSource
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.run.config.build import ConfigError
from llmjax.run.config.options import keyword_options
from llmjax.run.folder import Run
from llmjax.run.network import run_tasks
from llmjax.run.origin import Origin, read_origin
from llmjax.version import __version__

Format = Literal["hf", "peft", "gguf", "stablehlo"]
NOT_KEPT = frozenset(
    """rope_parameters quantization_config auto_map _name_or_path transformers_version
    transformers_weights""".split()
)
"""Fields of an origin's config.json that are said otherwise, or that hold no longer."""


@dataclass(frozen=True)
class ExportOptions:
    """Options of export."""

    to: Format = "hf"
    """hf: a folder for Transformers, vLLM, SGLang, TGI; peft: the adapters alone; gguf: a file for
    llama.cpp and programs that read its format; stablehlo: programs that need only jax and numpy.
    Adapters are merged in all but peft."""
    dtype: Literal["float32", "bfloat16", "float16", "q8_0"] | None = None
    """Of the weights; none: as they are stored. q8_0 in gguf alone."""
    step: int | None = None
    """Which checkpoint; none: the best by evaluation.metric, where the run has one, else the newest
    complete one."""
    task: str | None = None
    """hf, peft: the task whose head is written, where a run has several."""
    max_shard_bytes: int | None = None
    """hf: bytes of tensors in a file, above which there are several; none: 5,000,000,000."""
    platforms: tuple[str, ...] = ()
    """stablehlo: of cpu, cuda, tpu; without any, all that the model can be compiled for."""


ONLY_WITH = {"max_shard_bytes": ("hf",), "task": ("hf", "peft"), "platforms": ("stablehlo",)}
"""Options that only these formats have."""


@keyword_options()
def export(run: str | Path, out: str | Path, options: ExportOptions) -> Path:
    """Writes a run's model in another format; nothing is left behind where that fails.

    Args:
      run: the run folder.
      out: the folder (gguf: the file) to write; it must not exist.
      options: fields of ExportOptions, also as keywords.

    Returns:
      `out`.

    Raises:
      UserError: the run cannot be read, the format has no such architecture or option, or `out`
        exists or cannot be written.
    """
    values = {name: getattr(options, name) for name in ONLY_WITH}
    further: dict[str, Any] = {k: v for k, v in values.items() if v not in (None, ())}
    if wrong := [
        f"--{name.replace('_', '-')}: only with --to {' or '.join(ONLY_WITH[name])}"
        for name in further
        if options.to not in ONLY_WITH[name]
    ]:
        raise ConfigError(wrong)
    dtype, step = options.dtype, options.step
    match options.to:
        case "hf":
            return export_hf(run, out, dtype=dtype, step=step, **further)
        case "peft":
            from llmjax.convert.peft.writing import export_peft

            return export_peft(run, out, dtype=dtype, step=step, **further)
        case "gguf":
            from llmjax.convert.gguf.writing import export_gguf

            return export_gguf(run, out, dtype=dtype, step=step)
        case "stablehlo":
            from llmjax.convert.stablehlo.export import export_stablehlo

            return export_stablehlo(run, out, dtype=dtype, step=step, **further)
    choices = ", ".join(get_args(Format))
    raise UserError(f"format {options.to!r}", f"is not known; choose one of {choices}")


def export_hf(
    run: str | Path,
    out: str | Path,
    *,
    dtype: str | None = None,
    step: int | None = None,
    max_shard_bytes: int = SHARD_BYTES,
    task: str | None = None,
) -> Path:
    """Writes a Hugging Face folder, reads it back and compares every number; see `export`."""
    if dtype is not None and dtype not in FLOATS:
        raise UserError(f"dtype {dtype}", "is not known", f"choose one of {', '.join(FLOATS)}")
    if max_shard_bytes < 1:
        raise UserError(f"max_shard_bytes {max_shard_bytes}", "is not positive")
    opened = Run.open(run)
    tokenizer = load_tokenizer(opened.tokenizer)
    before = opened.config()
    shape = resolve(before.model, tokenizer.vocab_size)
    origin = read_origin(opened.folder)
    chosen = choose_task(run_tasks(opened, before, tokenizer, shape), task)
    form = form_of(without_adapters(shape), chosen, origin.model_type if origin else None)
    with becoming(Path(out)) as folder:
        params = merged_params(opened, shape, step, dtype)
        tensors = form.tensors(params, dtype)
        write_folder(folder, tensors, max_shard_bytes)
        kept = dtype or np.dtype(params["embedding"]["rows"].dtype).name
        config = hf_config(form.family, form.shape, tokenizer, origin, kept)
        if isinstance(form, Headed):
            assert chosen is not None
            config |= form.fields(chosen, tokenizer)
        elif shape.num_decoder_layers:
            write_json(folder / "generation_config.json", generation(config, origin))
        write_json(folder / "config.json", config)
        export_tokenizer(
            tokenizer,
            folder,
            max_length=shape.max_length,
            model_kind=form.family.model_type,
        )
        sentence = sentence_of(shape, chosen, origin)
        if sentence is not None:
            write_sentence(folder, sentence, shape.d_model)
        read_back(folder, form.family, form.shape, tensors)
    return Path(out)


def hf_config(
    family: Family, shape: ModelConfig, tokenizer: Tokenizer, origin: Origin | None, dtype: str
) -> dict[str, Any]:
    """The config.json: the origin's, where the family is still its own, with what is so now."""
    found: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    if shape.is_encoder_decoder:
        found |= {"decoder_start_token_id": tokenizer.pad_id, "is_encoder_decoder": True}
    if origin is not None and origin.model_type == family.model_type:
        found |= {name: value for name, value in origin.config.items() if name not in NOT_KEPT}
    found |= family.write_config(shape)
    found |= {"dtype": dtype, "torch_dtype": dtype}
    found["llmjax_version"] = __version__
    return found


def generation(config: dict[str, Any], origin: Origin | None) -> dict[str, Any]:
    """The generation_config.json: the origin's, or the ends of text."""
    if origin is not None and origin.generation_config is not None:
        return origin.generation_config
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    return {name: config[name] for name in names if config.get(name) is not None}


def read_back(folder: Path, family: Family, shape: ModelConfig, tensors: list[Planned]) -> None:
    """Checks that what was written says what it should, bit for bit.

    Raises:
      UserError: it does not.
    """
    written = open_folder(folder)
    values = read_object(folder / "config.json")
    if essence(family_of(values).read_config(values, written)) != essence(shape):
        raise UserError(folder / "config.json", "does not read back as the model that it is of")
    if sorted(written.names()) != sorted(tensor.name for tensor in tensors):
        raise UserError(folder, "does not hold the tensors that were written", "check the disk")
    for name in different(written, tensors):
        raise UserError(f"tensor {name}", "does not read back as it was written", "check the disk")


def different(written: TensorSource, tensors: list[Planned]) -> Iterator[str]:
    """Names of tensors that differ from what was to be written."""
    for tensor in tensors:
        there, made = written.read(tensor.name), tensor.make()
        same_kind = (there.dtype, there.shape) == (tensor.dtype, tensor.shape)
        if not same_kind or not np.array_equal(bits(there), bits(made)):
            yield tensor.name


def bits(array: np.ndarray) -> np.ndarray:
    """The same bytes as integers: a NaN is equal to itself, 0.0 not to -0.0."""
    return array.view(np.dtype(f"u{array.itemsize}"))


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON object as people write them."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def summary(out: str | Path, to: Format) -> dict[str, Any]:
    """What an export wrote, in short."""
    place = Path(out)
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    found: dict[str, Any] = {
        "out": str(out),
        "to": to,
        "files": [str(p.relative_to(place)) if p != place else p.name for p in files],
        "bytes": sum(path.stat().st_size for path in files),
    }
    if to == "hf":
        config = read_object(place / "config.json")
        name = config["architectures"][0]
        loaded = f"import transformers; transformers.{name}.from_pretrained({str(out)!r})"
        found |= {"family": config["model_type"], "architecture": name, "dtype": config["dtype"]}
        found |= {"parameters": _numbers(open_folder(place)), "next": f'python -c "{loaded}"'}
    elif to == "peft":
        from llmjax.convert.peft.writing import WEIGHTS

        found |= {"parameters": _numbers(TensorFiles(read_header(place / WEIGHTS)))}
        found["next"] = f"peft.PeftModel.from_pretrained(model, {str(out)!r})"
    return found


def _numbers(tensors: TensorSource) -> int:
    return sum(int(np.prod(tensors.shape(name))) for name in tensors.names())
