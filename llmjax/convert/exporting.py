"""Export a run's model to other formats: a registry of exporters, and `export`.

To add a format, subclass `Exporter` in a new file and add a line to EXPORTERS.
"""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from llmjax.convert.params import without_adapters
from llmjax.convert.tensors import FLOATS, TensorSource
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.registry import Registry
from llmjax.run.config.build import ConfigError
from llmjax.run.config.options import keyword_options
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.run.origin import Origin, read_origin
from llmjax.storage.stores.path import Location, StorePath, location
from llmjax.storage.stores.transfer import new_file, new_folder


@dataclass(frozen=True)
class ExportSource:
    """A run to export.

    Attributes:
      run: the run.
      config: its config.
      shape: its model's architecture, including any adapters.
      tokenizer: its tokenizer.
      origin: where its model was imported from; None if it was trained here.
      step: the checkpoint; None for the best or newest one.
      dtype: dtype to write weights in; None for the stored dtype.
    """

    run: Run
    config: Config
    shape: ModelConfig
    tokenizer: Tokenizer
    origin: Origin | None
    step: int | None
    dtype: str | None

    @property
    def merged_shape(self) -> ModelConfig:
        """The architecture with adapters merged into the weights."""
        return without_adapters(self.shape)

    @property
    def model_type(self) -> str | None:
        """The `model_type` it was imported as; None if it was trained here."""
        return self.origin.model_type if self.origin else None


class Exporter:
    """An export format. Subclasses are frozen dataclasses whose fields are the format's options."""

    dtypes: ClassVar[tuple[str, ...]] = tuple(FLOATS)
    """Dtypes that weights can be written in."""
    single_file: ClassVar[bool] = False
    """Whether the output is one file instead of a folder."""

    def check(self) -> None:
        """Raise a UserError if an option is invalid or a library is missing."""

    def write(self, source: ExportSource, out: Path) -> None:
        """Write into `out`, an empty folder or file, and verify it by reading it back.

        Raises:
          UserError: the format cannot express the model, or verification fails.
        """
        raise NotImplementedError

    def summary(self, out: Path) -> dict[str, Any]:
        """Fields that `llmjax export` reports in addition to file names and sizes."""
        return {}


EXPORTERS: Registry[Exporter] = Registry(
    "export format",
    {
        "hf": "llmjax.convert.hf.writing:HFExporter",
        "peft": "llmjax.convert.peft.writing:PeftExporter",
        "gguf": "llmjax.convert.gguf.writing:GgufExporter",
        "stablehlo": "llmjax.convert.stablehlo.writing:StableHloExporter",
    },
)


@dataclass(frozen=True)
class ExportOptions:
    """Options of `export`."""

    to: str = "hf"
    """hf: a folder for Transformers, vLLM, SGLang, TGI; peft: the adapters alone; gguf: a file for
    llama.cpp and compatible programs; stablehlo: programs that need only jax and numpy. All but
    peft merge adapters into the weights."""
    dtype: Literal["float32", "bfloat16", "float16", "q8_0"] | None = None
    """Of the weights; none: as stored. q8_0 for gguf only."""
    step: int | None = None
    """Checkpoint to export; none: the best by evaluation.metric, if the run has one, else the
    newest complete one."""
    task: str | None = None
    """hf, peft: the task whose head is exported, if the run has several."""
    max_shard_bytes: int | None = None
    """hf: split the weights into files of at most so many bytes; none: 5,000,000,000."""
    platforms: tuple[str, ...] = ()
    """stablehlo: any of cpu, cuda, tpu; by default all that the model can be lowered for."""


FORMAT_OPTIONS = ("task", "max_shard_bytes", "platforms")
"""Options of some formats only: those whose exporter has a field of the same name."""


@keyword_options()
def export(run: str | PathLike[str], out: str | Path, options: ExportOptions) -> Location:
    """Export a run's model to another format. A failed export leaves nothing behind.

    Args:
      run: the run folder.
      out: the folder (gguf: file) to write, local or in a bucket (it is then written to a
        temporary folder first); it must not exist.
      options: fields of ExportOptions, also as keywords.

    Returns:
      `out`.

    Raises:
      UserError: the run cannot be read, the format cannot express it or lacks an option, or `out`
        exists or cannot be written.
    """
    exporter = exporter_for(options)
    dtype = options.dtype
    if dtype not in (None, *exporter.dtypes):
        reason = f"is not supported by {options.to}"
        raise UserError(f"dtype {dtype}", reason, f"choose {', '.join(exporter.dtypes)}")
    if str(out).endswith(".gguf") and not exporter.single_file:
        reason = f"is the name of a GGUF file, and --to {options.to} writes a folder"
        raise UserError(out, reason, "add --to gguf, or choose another name")
    exporter.check()
    opened = Run.open(run)
    config, tokenizer = opened.config(), load_tokenizer(opened.tokenizer)
    shape = resolve(config.model, tokenizer.vocab_size)
    origin = read_origin(opened.folder)
    source = ExportSource(opened, config, shape, tokenizer, origin, options.step, dtype)
    new, target = new_file if exporter.single_file else new_folder, location(out)
    with new(target) as unfinished:
        exporter.write(source, unfinished)
    return target


def exporter_for(options: ExportOptions) -> Exporter:
    """The exporter of a format, with the options of that format.

    Raises:
      UserError: the format does not exist or lacks a given option.
    """
    exporter_class = EXPORTERS[options.to]
    values = {name: getattr(options, name) for name in FORMAT_OPTIONS}
    values = {name: value for name, value in values.items() if value not in (None, ())}
    if wrong := [
        f"--{name.replace('_', '-')}: only with --to {' or '.join(_formats_with(name))}"
        for name in values
        if not hasattr(exporter_class, name)
    ]:
        raise ConfigError(wrong)
    return exporter_class(**values)


def _formats_with(option: str) -> list[str]:
    return [to for to, exporter in EXPORTERS.items() if hasattr(exporter, option)]


def summary(out: str | Path, to: str) -> dict[str, Any]:
    """Summarize an export: its files, their total size and, unless it is in a bucket, the
    exporter's own fields."""
    root = location(out)
    if isinstance(root, StorePath):
        objects = {root.name: root.info()} if root.is_file() else root.files()
        size = sum(info.size for info in objects.values())
        return {"out": str(out), "to": to, "files": list(objects), "bytes": size}
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    return {
        "out": str(out),
        "to": to,
        "files": [str(p.relative_to(root)) if p != root else p.name for p in files],
        "bytes": sum(path.stat().st_size for path in files),
        **EXPORTERS[to]().summary(root),
    }


def num_parameters(tensors: TensorSource) -> int:
    """The total number of elements."""
    return sum(int(np.prod(tensors.shape(name))) for name in tensors.names())
