"""`llmjax.compress`: compresses any bytes to an archive."""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import jax

from llmjax.compression.archive import MODEL, ArchiveWriter
from llmjax.compression.codec import CodecStepper, allowed_ids
from llmjax.compression.fingerprint import environment, model_fingerprint
from llmjax.compression.frames import FRAME, encode_frame
from llmjax.compression.inputs import Input, open_input
from llmjax.compression.outputs import OutputFile, check_output, new_file
from llmjax.compression.plan import StreamPlan, check_memory, plan_streams
from llmjax.compression.progress import Progress, no_progress
from llmjax.compression.results import (
    PASSAGE_TOKENS,
    CompressionResult,
    CompressorComparison,
    TokenCosts,
    compare_compressors,
    save_result,
)
from llmjax.compression.segments import Segment, Segmenter
from llmjax.compression.streams import determinism_hash
from llmjax.compression.verification import release_device, verify_archive, warn
from llmjax.data.text.reading import expand
from llmjax.data.text.source import FileSource, Source
from llmjax.errors import UserError
from llmjax.inference.language_model import LanguageModel, load
from llmjax.model.compute import Dtype
from llmjax.run.config.options import keyword_options
from llmjax.run.folder import Run
from llmjax.storage.stores.path import Location, location
from llmjax.version import __version__

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompressOptions:
    """Options of compress."""

    streams: int | None = None
    """Parallel streams; none: by the size of the input. More streams are faster, but each starts
    without context."""
    context: int | None = None
    """Maximum tokens of context; none: 512, or the model's limit if that is less."""
    stride: int | None = None
    """Tokens from one window to the next; none: the context minus 128, or half the context if that
    is more."""
    step: int | None = None
    """Checkpoint to use; none: the newest complete one."""
    dtype: Dtype = "bfloat16"
    """Dtype of parameters and computation."""
    verify: bool = True
    """Decode the archive in a separate process before it gets its name."""
    compare: bool = True
    """Run xz, zstd, brotli (up to 16 MiB, as it takes minutes) and bzip2 on the same input, after
    the archive is complete."""
    fallback: bool = True
    """Use zstd, or store the bytes, for text that the model would expand."""
    overwrite: bool = False
    """Replace OUT if it exists and is a file."""
    passage: bool = False
    """Store the first 2,000 tokens as text in RUN/compression.json, with the cost of each, so that
    the report can show what surprised the model."""


@keyword_options()
def compress(
    run: str | PathLike[str],
    source: str | Path,
    target: str | Path,
    options: CompressOptions,
    *,
    progress: Progress = no_progress,
) -> CompressionResult:
    """Writes an archive from which `decompress`, given the same run, restores the input exactly.

    Saves the result as RUN/compression.json for the report, unless the folder is read-only.

    Args:
      run: the run folder of a causal decoder.
      source: a file, a folder (archived as a whole), or - for standard input.
      target: the archive; - for standard output.
      options: fields of CompressOptions, also as keywords.
      progress: called with the progress of compression.

    Raises:
      UserError: there is no such run or input, the model is not a causal decoder, the target
        exists or cannot be written, or the archive does not decode.
    """
    verify = options.verify
    check_output(str(target), options.overwrite, str(source))
    platform = jax.default_backend()
    warn(platform, environment()["flags"], verify)
    lm, began = load(run, step=options.step, dtype=options.dtype), time.perf_counter()
    if file := training_file(lm.config.data.sources, str(source)):
        logger.warning(
            "%s is training data of this run: its size does not show how well the model compresses "
            "new text",
            file,
        )
    with open_input(str(source)) as data:
        with new_file(str(target), options.overwrite, data.common_mode) as out:
            encoder = _Encoder(lm, data, options, progress)
            writer = encoder.write(out)
            seconds, used_step = time.perf_counter() - began, lm.step
            model_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(lm.params))
            if verify:
                del lm
                encoder.release_device()
                out.rewind()
                verify_archive(run, out.file, platform, progress is not no_progress)
            verify_seconds = time.perf_counter() - began - seconds if verify else None
        comparison = compare_compressors(data) if options.compare else CompressorComparison()
    result = CompressionResult(
        source=str(source),
        bytes=data.size,
        archive_bytes=writer.written,
        header_bytes=writer.header_size,
        model_bytes=model_bytes,
        seconds=seconds,
        compile_seconds=encoder.start_seconds,
        verify_seconds=verify_seconds,
        streams=encoder.plan.layout.streams,
        context=encoder.plan.layout.context,
        stride=encoder.plan.layout.stride,
        costs=encoder.costs,
        baselines=comparison.baselines,
        not_compared=comparison.skipped,
    )
    save_result(Run.open(run), used_step, result)
    return result


def training_file(sources: Sequence[Source], path: str) -> Location | None:
    """Returns a file of the sources that is at `path` or in the folder there; None if none is."""
    if path == "-":
        return None
    place = location(path)
    for source in sources:
        if not isinstance(source, FileSource):
            continue
        with contextlib.suppress(UserError):  # the files may be gone by now
            for file in expand(source.paths):
                if file == place or _is_within(file, place):
                    return file
    return None


def _is_within(file: Location, folder: Location) -> bool:
    """Whether a local file is the other path, or in that folder."""
    if not isinstance(file, Path) or not isinstance(folder, Path):
        return False
    path, target = file.resolve(), folder.resolve()
    return path == target or target in path.parents


@dataclass
class _Encoder:
    """Encodes one input.

    Attributes:
      start_seconds: time of compiling and of computing the determinism hash.
      plan: streams and windows; set by `write` at the first frame.
      costs: the cost of tokens.
    """

    lm: LanguageModel
    source: Input
    options: CompressOptions
    progress: Progress
    start_seconds: float = 0.0
    plan: StreamPlan = field(init=False)
    costs: TokenCosts = field(init=False)

    def __post_init__(self) -> None:
        passage_tokens = PASSAGE_TOKENS if self.options.passage else 0
        self.costs = TokenCosts(self.lm.tokenizer, passage_tokens)

    def write(self, out: OutputFile) -> ArchiveWriter:
        """Writes the archive, and returns its closed writer."""
        writer, done = None, 0
        for data, segments in self._frames():
            if writer is None:
                tokens = sum(len(part.tokens) for part in segments if part.tokens is not None)
                writer = ArchiveWriter(out, self._header(tokens))
            state = (writer.written, done, len(data))

            def report(share: float, size: float, state: tuple[int, int, int] = state) -> None:
                written, start, length = state
                self.progress(
                    "Compressing", start + share * length, self.source.size, written + size
                )

            segmenter = self.segmenter if self.options.fallback else None
            frame = encode_frame(lambda: self.stepper, data, segments, segmenter, report)
            writer.frame(frame.kind, frame.content, data)
            if frame.encoded is not None and frame.tokens is not None:
                self.costs.add(frame.encoded, frame.tokens, frame.kind == MODEL)
            done += len(data)
            self.progress("Compressing", done, self.source.size, writer.written)
        writer = writer or ArchiveWriter(out, self._header(0))
        writer.close()
        return writer

    def release_device(self) -> None:
        """Releases the device; nothing can be encoded afterwards."""
        self.__dict__.pop("stepper", None)
        del self.lm
        release_device()

    @cached_property
    def stepper(self) -> CodecStepper:
        """The stepper of this archive's layout."""
        check_memory(self.lm.model.config, self.plan.layout)
        return CodecStepper(self.lm, self.plan.layout)

    @cached_property
    def segmenter(self) -> Segmenter:
        """The segmenter for this model's tokenizer."""
        return Segmenter(self.lm.tokenizer, allowed_ids(self.lm))

    def _frames(self) -> Iterator[tuple[bytes, list[Segment]]]:
        return ((data, self.segmenter.split(data)) for data in self.source.blocks(FRAME))

    def _header(self, tokens: int) -> dict[str, Any]:
        shape = {name: getattr(self.options, name) for name in ("streams", "context", "stride")}
        self.plan = plan_streams(self.lm, tokens, self.source.size, **shape)
        layout, began = self.plan.layout, time.perf_counter()
        determinism = determinism_hash(self.stepper, self.plan.windows)
        self.start_seconds = time.perf_counter() - began
        metadata = {"mode": self.source.mode, "time": self.source.time}
        return {
            "llmjax": __version__,
            "size": self.source.size,
            "step": self.lm.step,
            "dtype": self.options.dtype,
            "model": model_fingerprint(self.lm),
            "tokenizer": self.lm.tokenizer.fingerprint,
            "determinism_hash": determinism,
            "streams": layout.streams,
            "context": layout.context,
            "stride": layout.stride,
            "groups": layout.groups,
            "windows": self.plan.windows,
            "environment": environment(),
            "files": self.source.members,
            **{name: value for name, value in metadata.items() if value is not None},
        }
