"""A run's model in the formats of other programs: a registry of exporters, and `export`.

A format is a subclass of `Exporter` in a file of its own and a line in EXPORTERS.
"""

from dataclasses import dataclass
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
from llmjax.storage.writing import atomic_file, atomic_folder


@dataclass(frozen=True)
class ExportSource:
    """What is exported.

    Attributes:
      run: the run.
      config: its config.
      shape: its model's architecture, with adapters where it has them.
      tokenizer: its tokenizer.
      origin: where its model was imported from; None for one trained here.
      step: which checkpoint; None for the best or newest one.
      dtype: of the weights; None for what they are stored in.
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
        """The architecture with adapters merged."""
        return without_adapters(self.shape)

    @property
    def model_type(self) -> str | None:
        """The family that it was imported as."""
        return self.origin.model_type if self.origin else None


class Exporter:
    """A format. Subclasses are frozen dataclasses, whose fields are the format's own options."""

    dtypes: ClassVar[tuple[str, ...]] = tuple(FLOATS)
    """That weights may be written in."""
    single_file: ClassVar[bool] = False
    """Whether it writes a file, not a folder."""

    def check(self) -> None:
        """Raises a UserError where an option is invalid or a library is missing."""

    def write(self, source: ExportSource, out: Path) -> None:
        """Writes into `out`, an empty folder or file, and reads it back.

        Raises:
          UserError: the format cannot express the model, or the disk is damaged.
        """
        raise NotImplementedError

    def summary(self, out: Path) -> dict[str, Any]:
        """What `llmjax export` reports beside the files' names and sizes."""
        return {}


EXPORTERS: Registry[Exporter] = Registry(
    "export format",
    {
        "hf": "llmjax.convert.hf.export:HFExporter",
        "peft": "llmjax.convert.peft.writing:PeftExporter",
        "gguf": "llmjax.convert.gguf.writing:GgufExporter",
        "stablehlo": "llmjax.convert.stablehlo.export:StableHloExporter",
    },
)


@dataclass(frozen=True)
class ExportOptions:
    """Options of export."""

    to: str = "hf"
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


FORMAT_OPTIONS = ("task", "max_shard_bytes", "platforms")
"""Options that only some formats have: those whose exporter has a field of that name."""


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
      UserError: the run cannot be read, the format cannot express it or lacks an option, or `out`
        exists or cannot be written.
    """
    exporter = exporter_for(options)
    dtype = options.dtype
    if dtype not in (None, *exporter.dtypes):
        reason = f"is not supported by {options.to}"
        raise UserError(f"dtype {dtype}", reason, f"choose {', '.join(exporter.dtypes)}")
    exporter.check()
    opened = Run.open(run)
    config, tokenizer = opened.config(), load_tokenizer(opened.tokenizer)
    shape = resolve(config.model, tokenizer.vocab_size)
    origin = read_origin(opened.folder)
    source = ExportSource(opened, config, shape, tokenizer, origin, options.step, dtype)
    new = atomic_file if exporter.single_file else atomic_folder
    with new(Path(out)) as unfinished:
        exporter.write(source, unfinished)
    return Path(out)


def exporter_for(options: ExportOptions) -> Exporter:
    """The exporter of a format, with its own options.

    Raises:
      UserError: there is no such format, or it lacks an option.
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
    """What an export wrote, in short."""
    place = Path(out)
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    return {
        "out": str(out),
        "to": to,
        "files": [str(p.relative_to(place)) if p != place else p.name for p in files],
        "bytes": sum(path.stat().st_size for path in files),
        **EXPORTERS[to]().summary(place),
    }


def num_parameters(tensors: TensorSource) -> int:
    """How many numbers tensors hold together."""
    return sum(int(np.prod(tensors.shape(name))) for name in tensors.names())
