"""A run's model in the formats of other programs: a registry of exporters, and `export`.

A format is a subclass of `Exporter` in a file of its own and a line in EXPORTERS.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llmjax.convert.params import without_adapters
from llmjax.convert.tensors import FLOATS, TensorSource
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.registry import Registry
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


def export(
    run: str | Path,
    out: str | Path,
    *,
    to: str = "hf",
    dtype: str | None = None,
    step: int | None = None,
    **options: Any,
) -> Path:
    """Writes a run's model in another format; nothing is left behind where that fails.

    Args:
      run: the run folder.
      out: the folder (gguf: the file) to write; it must not exist.
      to: hf, peft (adapters alone), gguf or stablehlo; adapters are merged in all but peft.
      dtype: of the weights; None for what they are stored in.
      step: which checkpoint; None for the best, where the run selects by a metric, else for the
        newest complete one.
      **options: of the format: hf takes max_shard_bytes, hf and peft take task (which of several),
        stablehlo takes platforms.

    Returns:
      `out`.

    Raises:
      UserError: the run cannot be read, the format cannot express it, or `out` exists or cannot be
        written.
    """
    exporter_class = EXPORTERS[to]
    names = {field.name for field in fields(exporter_class)}  # type: ignore[arg-type]
    if unknown := options.keys() - names:
        raise UserError(f"option {min(unknown)}", f"is not one of format {to}")
    exporter = exporter_class(**options)
    if dtype not in (None, *exporter.dtypes):
        raise UserError(
            f"dtype {dtype}", f"is not supported by {to}", f"choose {', '.join(exporter.dtypes)}"
        )
    exporter.check()
    opened = Run.open(run)
    config, tokenizer = opened.config(), load_tokenizer(opened.tokenizer)
    shape = resolve(config.model, tokenizer.vocab_size)
    origin = read_origin(opened.folder)
    source = ExportSource(opened, config, shape, tokenizer, origin, step, dtype)
    new = atomic_file if exporter.single_file else atomic_folder
    with new(Path(out)) as unfinished:
        exporter.write(source, unfinished)
    return Path(out)


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
