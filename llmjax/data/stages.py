"""Stages of a run: the mixture and the shape of its batches, which may change at given steps.

Cheap to import.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llmjax.data.interleave import Interleaving
from llmjax.limits import MAX_BATCH_TOKENS


@dataclass(frozen=True)
class StageConfig:
    """A change of the batches from a step on; what is None stays as in the stage before."""

    step: int
    """Steps taken before this stage. 0: the run begins with it."""
    sources: tuple[int, ...] | None = None
    """Which of data.sources are read, by index from 0."""
    weights: tuple[float, ...] | None = None
    """A weight for each source of the stage; None, with `sources` given: those of data.sources."""
    length: int | None = None
    """Tokens per row."""
    batch_size: int | None = None
    """Rows per global batch."""


@dataclass(frozen=True)
class Stage:
    """A stage with all its values."""

    name: str = field(compare=False)
    """The dotted name of its config: "data", or "data.stages.INDEX"."""
    first_step: int
    sources: tuple[int, ...]
    """Indices into data.sources."""
    weights: tuple[float, ...]
    """One for each of `sources`."""
    length: int
    batch_size: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and tokens per row."""
        return self.batch_size, self.length

    @property
    def rows_text(self) -> str:
        """The shape of its batches in words."""
        return f"{self.batch_size} rows of {self.length} tokens"

    def __str__(self) -> str:
        parts = zip(self.sources, self.weights, strict=True)
        mixture = ", ".join(f"{source} (weight {float(weight)!r})" for source, weight in parts)
        return f"from step {self.first_step}: {self.rows_text} of sources {mixture}"


def resolve_stages(
    stages: Sequence[StageConfig],
    weights: Sequence[float],
    length: int,
    batch_size: int,
) -> tuple[Stage, ...]:
    """The stages of a run in order, the first of which begins at step 0.

    Args:
      stages: without problems (see `stage_problems`).
      weights: of data.sources.
      length, batch_size: before any stage.
    """
    stage = Stage("data", 0, tuple(range(len(weights))), tuple(weights), length, batch_size)
    resolved = [stage]
    for index, config in enumerate(stages):
        stage = _next(f"data.stages.{index}", config, stage, weights)
        resolved = [*(resolved if config.step else ()), stage]
    return tuple(resolved)


def _next(name: str, config: StageConfig, before: Stage, weights: Sequence[float]) -> Stage:
    sources = before.sources if config.sources is None else config.sources
    if config.weights is not None:
        kept: tuple[float, ...] = config.weights
    elif config.sources is not None:
        kept = tuple(weights[source] for source in sources)
    else:
        kept = before.weights
    return Stage(
        name,
        config.step,
        sources,
        kept,
        before.length if config.length is None else config.length,
        before.batch_size if config.batch_size is None else config.batch_size,
    )


def stage_problems(stages: Sequence[StageConfig], num_sources: int) -> Iterator[str]:
    """Yields each problem with the values, as "stages.INDEX.field: problem".

    Args:
      stages: as configured.
      num_sources: the number of data.sources.
    """
    earlier, sources = -1, num_sources
    for index, stage in enumerate(stages):
        name = f"stages.{index}"
        if stage.step < 0:
            yield f"{name}.step: {stage.step} is negative"
        elif stage.step <= earlier:
            yield f"{name}.step: {stage.step} is not after {earlier}, where the stage before begins"
        earlier = max(earlier, stage.step)
        if stage.sources is not None:
            yield from _source_problems(f"{name}.sources", stage.sources, num_sources)
            sources = len(stage.sources)
        if stage.weights is not None and len(stage.weights) != sources:
            yield (
                f"{name}.weights: {len(stage.weights)} weights, and sources to read: {sources}; "
                "give one for each"
            )
        if not all(0 < weight < 1e30 for weight in stage.weights or ()):
            yield f"{name}.weights: every weight must be a positive number"
        if stage.length is not None and stage.length < 2:
            yield f"{name}.length: {stage.length} is less than 2, the shortest rows"
        if stage.batch_size is not None and stage.batch_size < 1:
            yield f"{name}.batch_size: {stage.batch_size} is not positive"


def _source_problems(name: str, sources: Sequence[int], count: int) -> Iterator[str]:
    if not sources:
        yield f"{name}: give at least one"
    if len(set(sources)) < len(sources):
        yield f"{name}: a source is named twice"
    for source in sources:
        if not 0 <= source < count:
            yield f"{name}: {source} is not an index of the {count} data.sources, from 0"


def size_problems(stages: Sequence[Stage]) -> Iterator[str]:
    """Yields each stage of too large batches, as "stages.INDEX.batch_size: problem"."""
    for stage in stages:
        if stage.batch_size * stage.length > MAX_BATCH_TOKENS and stage.name != "data":
            yield (
                f"{stage.name.removeprefix('data.')}.batch_size: {stage.rows_text} are more than "
                f"the {MAX_BATCH_TOKENS} that a batch may have"
            )


def tokens_read(stages: Sequence[Stage], steps: int) -> dict[int, int]:
    """Source -> tokens that a run of so many steps reads of it: those of its rows, of the length of
    which it has most, since rows of another length begin with the first token again."""
    read: dict[tuple[int, int], int] = {}
    ends = [*(stage.first_step for stage in stages[1:]), steps]
    for stage, end in zip(stages, ends, strict=True):
        rows = max(0, min(end, steps) - stage.first_step) * stage.batch_size
        counts = Interleaving(stage.weights).counts(rows)
        for source, count in zip(stage.sources, counts, strict=True):
            stream = source, stage.length
            read[stream] = read.get(stream, 0) + count * stage.length
    return {
        source: max(tokens for (other, _), tokens in read.items() if other == source)
        for source, _ in read
    }


def changed_stages(old: Sequence[Stage], new: Sequence[Stage], step: int) -> list[str]:
    """The stages that began before a step and are not the same, a line each.

    Args:
      old: of a run.
      new: of the config that it is to resume with.
      step: steps that the run has taken.
    """
    begun = [[stage for stage in stages if stage.first_step < step] for stages in (old, new)]
    changed = []
    for index in range(max(map(len, begun))):
        was, now = (stages[index] if index < len(stages) else None for stages in begun)
        if was != now and (stage := was or now) is not None:
            shown = (str(item) if item else "absent" for item in (was, now))
            changed.append(f"{stage.name} {' -> '.join(shown)}")
    return changed
