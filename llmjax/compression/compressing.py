"""The verb `compress`."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from llmjax.compression.archive import MODEL, Writer
from llmjax.compression.costs import PASSAGE, Costs
from llmjax.compression.fingerprint import environment, model_fingerprint
from llmjax.compression.frames import FRAME, encode_frame
from llmjax.compression.lanes import Walker, allowed_ids
from llmjax.compression.plan import Plan, make_plan
from llmjax.compression.progress import Progress, no_progress
from llmjax.compression.record import record
from llmjax.compression.segments import Cutter, Segment
from llmjax.compression.sources import Source, open_source
from llmjax.compression.stream import canary
from llmjax.compression.summary import Compared, Compression, compare_with
from llmjax.compression.targets import Output, check_target, new_file
from llmjax.compression.verifying import let_go, verify_archive, warn
from llmjax.inference.language_model import LanguageModel, load
from llmjax.model.compute import Dtype
from llmjax.run.folder import Run
from llmjax.version import __version__


def compress(
    run: str | Path,
    source: str | Path,
    target: str | Path,
    *,
    lanes: int | None = None,
    context: int | None = None,
    stride: int | None = None,
    step: int | None = None,
    dtype: Dtype = "bfloat16",
    verify: bool = True,
    compare: bool = True,
    fallback: bool = True,
    overwrite: bool = False,
    passage: bool = False,
    progress: Progress = no_progress,
) -> Compression:
    """Writes an archive from which `decompress`, given the same run, makes the very same bytes.

    What it came to is kept as RUN/compression.json, for the report, where that can be written.

    Args:
      run: the folder of a causal decoder.
      source: a file, a folder (its files in one archive), or - for standard input.
      target: the archive; - for standard output.
      lanes: parts that are coded side by side; None: by the input's size. More are faster, and
        each begins without context.
      context: tokens that a token is predicted from at most; None: 512, or what the model allows.
      stride: tokens from one window to the next; None: 128 less than the context, or half of
        it where that is more.
      step: which checkpoint; None for the newest complete one.
      dtype: what parameters are held and computed in.
      verify: decode the archive in a process of its own before it gets its name.
      compare: run the classical compressors on the same input, once the archive has its name.
      fallback: let zstd have, or just store, what the model would expand.
      overwrite: replace an existing target, which has to be a file.
      passage: keep the first `costs.PASSAGE` tokens as text, with what each cost.
      progress: told how far things are.

    Raises:
      UserError: there is no such run or input, the model is no causal decoder, the target exists
        or cannot be written, or the archive does not decode.
    """
    check_target(str(target), overwrite, str(source))
    platform = jax.default_backend()
    warn(platform, environment()["flags"], verify)
    lm, began = load(run, step=step, dtype=dtype), time.perf_counter()
    with open_source(str(source)) as given:
        with new_file(str(target), overwrite, given.readers) as out:
            wanted = {"lanes": lanes, "context": context, "stride": stride}
            job = _Job(lm, given, wanted, dtype, fallback, progress, PASSAGE if passage else 0)
            job.write(out)
            seconds, used = time.perf_counter() - began, lm.step
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(lm.params))
            if verify:
                del lm
                job.let_go()
                out.rewind()
                verify_archive(run, out.file, platform, progress is not no_progress)
            verified = time.perf_counter() - began - seconds if verify else None
        compared = compare_with(given) if compare else Compared()
    found = Compression(
        source=str(source),
        bytes=given.size,
        archive_bytes=job.written,
        header_bytes=job.header,
        model_bytes=size,
        seconds=seconds,
        compile_seconds=job.start_seconds,
        verify_seconds=verified,
        lanes=job.shape_of("lanes"),
        context=job.shape_of("context"),
        stride=job.shape_of("stride"),
        costs=job.costs,
        baselines=compared.baselines,
        not_compared=compared.left_out,
    )
    record(Run.open(run), used, found)
    return found


@dataclass
class _Job:
    """One archive in the making."""

    lm: LanguageModel
    source: Source
    wanted: dict[str, int | None]
    dtype: str
    fallback: bool
    progress: Progress
    passage: int = 0
    written: int = 0
    header: int = 0
    start_seconds: float = 0.0
    plan: Plan | None = None
    costs: Costs = field(init=False)

    def __post_init__(self) -> None:
        self.costs = Costs(self.lm.tokenizer, self.passage)

    def write(self, out: Output) -> None:
        """Writes the whole archive."""
        writer, done = None, 0
        for data, segments in self._cut():
            if writer is None:
                tokens = sum(len(one.tokens) for one in segments if one.tokens is not None)
                writer = Writer(out, self._header(tokens))
                self.header = writer.written
            before, place, size = writer.written, done, len(data)

            def report(
                share: float, coded: float, at: tuple[int, int, int] = (before, place, size)
            ) -> None:
                written, start, length = at
                self.progress(
                    "Compressing", start + share * length, self.source.size, written + coded
                )

            spare = self.cutter if self.fallback else None
            frame = encode_frame(lambda: self.walker, data, segments, spare, report)
            writer.frame(frame.kind, frame.content, data)
            if frame.coded is not None and frame.tokens is not None:
                self.costs.add(frame.coded, frame.tokens, frame.kind == MODEL)
            done += len(data)
            self.progress("Compressing", done, self.source.size, writer.written)
        if writer is None:
            writer = Writer(out, self._header(0))
            self.header = writer.written
        writer.close()
        self.written = writer.written

    def let_go(self) -> None:
        """Frees what holds the device; nothing can be written any more."""
        self.__dict__.pop("walker", None)
        del self.lm
        let_go()

    @cached_property
    def walker(self) -> Walker:
        """The model, ready for lanes of this archive's shape."""
        assert self.plan is not None
        return Walker(self.lm, self.plan.shape)

    def shape_of(self, name: str) -> int:
        """A number of the plan's shape."""
        assert self.plan is not None
        return int(getattr(self.plan.shape, name))

    @cached_property
    def cutter(self) -> Cutter:
        """Cuts bytes into text for this model and others."""
        return Cutter(self.lm.tokenizer, allowed_ids(self.lm))

    def _cut(self) -> Iterator[tuple[bytes, list[Segment]]]:
        return ((data, self.cutter.cut(data)) for data in self.source.blocks(FRAME))

    def _header(self, tokens: int) -> dict[str, Any]:
        self.plan = make_plan(self.lm, tokens, self.source.size, **self.wanted)
        shape, began = self.plan.shape, time.perf_counter()
        found = canary(self.walker, self.plan.windows)
        self.start_seconds = time.perf_counter() - began
        return {
            "llmjax": __version__,
            "size": self.source.size,
            "step": self.lm.step,
            "dtype": self.dtype,
            "model": model_fingerprint(self.lm),
            "tokenizer": self.lm.tokenizer.fingerprint,
            "canary": found,
            "lanes": shape.lanes,
            "context": shape.context,
            "stride": shape.stride,
            "groups": shape.groups,
            "windows": self.plan.windows,
            "environment": environment(),
            "files": self.source.members,
            **self._own(),
        }

    def _own(self) -> dict[str, int]:
        """Permissions of the file or folder, and the folder's time, where there are any."""
        own = {"mode": self.source.mode, "time": self.source.time}
        return {name: value for name, value in own.items() if value is not None}
