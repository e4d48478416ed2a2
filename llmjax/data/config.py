"""Data sources and batching: a frozen dataclass, cheap to import."""

import math
from dataclasses import dataclass, field
from typing import Literal

from llmjax.data.stages import (
    Stage,
    StageConfig,
    resolve_stages,
    size_problems,
    stage_problems,
)
from llmjax.data.text.source import AnySource
from llmjax.data.text.tfds import EmbeddedSource
from llmjax.data.tokenizers.config import TokenizerConfig
from llmjax.errors import UserError
from llmjax.limits import MAX_BATCH_TOKENS


@dataclass(frozen=True)
class DataConfig:
    """Sources and batching. A batch is a function of (corpus, config, seed, step) alone."""

    sources: tuple[AnySource, ...] = field(default_factory=lambda: (EmbeddedSource(),))
    """What text is read: mixed row by row in proportion to the weights."""
    batch_size: int = 16
    """Rows per global batch, over all devices of all processes."""
    length: int = 256
    """Tokens per row."""
    validation_fraction: float = 0.05
    """Documents whose content hash is below this fraction form the validation set. 0: none."""
    validation_max_bytes: int = 1 << 20
    """Validation text per source in UTF-8 bytes, at most: the documents of lowest hash."""
    on_exhaustion: Literal["repeat", "stop", "error"] = "repeat"
    """After a source's epoch: reshuffle and continue, end the run, or stop with an error."""
    deduplicate: Literal["window", "global", "minhash"] = "window"
    """Which copies of a training document are removed. "window": those near the first one, found
    with 64 MiB of memory, which forget documents after about 8 million others; with several shards,
    those within a shard. "global": all copies within a source. "minhash": these, and documents that
    are nearly the same; needs datatrove, which finds them before the text is tokenized."""
    shards: int = 1
    """Parts in which each source is tokenized and stored, by several processes at the same time; a
    killed preparation loses only those it was working on. The batches depend on the number, but not
    on who prepared the shards."""
    max_tokens: int | None = None
    """Training tokens that are prepared, at least if the text has them, and few more: of the
    beginning of each shard, in proportion to the sources' weights. A run that would read more is
    refused. None: all text is prepared."""
    cache_dir: str | None = None
    """Cache of tokens; None: $LLMJAX_CACHE, else $XDG_CACHE_HOME/llmjax, else ~/.cache/llmjax."""
    store: str | None = None
    """The complete token store: a folder, or an address such as gs://BUCKET/tokens. `llmjax data
    build` writes it; training reads its batches there, and prepares nothing. None: the cache."""
    store_cache_bytes: int = 8 << 30
    """Local disk for tokens read from a bucket, at most; in the cache. 0: none are kept."""
    workers: int = 0
    """Tokenizing processes. 0: one per CPU."""
    prefetch: int = 4
    """Batches prepared ahead of the training step."""
    stages: tuple[StageConfig, ...] = ()
    """Changes of the mixture, the length or the batch size from given steps on. Steps that are
    still to come may get other stages when a run resumes."""

    def all_stages(self) -> tuple[Stage, ...]:
        """The stages with all their values, of which the first begins at step 0."""
        weights = [source.weight for source in self.sources]
        return resolve_stages(self.stages, weights, self.length, self.batch_size)

    @property
    def largest_stage(self) -> Stage:
        """The stage with the most tokens in a batch; the first of several."""
        return max(self.all_stages(), key=lambda stage: stage.batch_size * stage.length)

    @property
    def is_sharded(self) -> bool:
        """Whether sources are stored as shards: several, or one of which all copies are removed or
        only the beginning is prepared."""
        return self.shards > 1 or self.deduplicate != "window" or self.max_tokens is not None

    def max_shard_tokens(self, source: AnySource) -> int | None:
        """`max_tokens` of a shard of a source."""
        if self.max_tokens is None:
            return None
        share = source.weight / sum(source.weight for source in self.sources)
        return math.ceil(self.max_tokens * share / self.shards)


def data_problems(config: DataConfig) -> list[str]:
    """Every problem with the values of `config`, one line each; nothing is read from disk."""
    weights = [source.weight for source in config.sources]
    tokens = config.batch_size * config.length
    checks = {
        "sources: give at least one": bool(config.sources),
        "sources: every weight must be a positive number": all(0 < w < 1e30 for w in weights),
        f"batch_size: {config.batch_size} is not positive": config.batch_size > 0,
        # JAX 0.12 cannot differentiate attention over a single token on a mesh.
        f"length: {config.length} is less than 2, the shortest rows": config.length > 1,
        f"validation_fraction: {config.validation_fraction} is not in [0, 1)": (
            0 <= config.validation_fraction < 1
        ),
        f"validation_max_bytes: {config.validation_max_bytes} is not positive": (
            config.validation_max_bytes > 0
        ),
        f"batch_size: {config.batch_size} rows of {config.length} tokens are more than the "
        f"{MAX_BATCH_TOKENS} that a batch may have": tokens <= MAX_BATCH_TOKENS,
        f"shards: {config.shards} is not positive": config.shards > 0,
        f"max_tokens: {config.max_tokens} is not positive": (
            config.max_tokens is None or config.max_tokens > 0
        ),
        f"store_cache_bytes: {config.store_cache_bytes} is negative": config.store_cache_bytes >= 0,
        f"workers: {config.workers} is negative": config.workers >= 0,
        f"prefetch: {config.prefetch} is not positive": config.prefetch > 0,
    }
    problems = [problem for problem, passed in checks.items() if not passed]
    for source in config.sources:
        problems += [f"sources: {problem}" for problem in source.problems()]
        problems += [
            f"sources: filter {filter.kind}: {problem}"
            for filter in source.filters
            for problem in filter.problems()
        ]
    wrong = list(stage_problems(config.stages, len(config.sources)))
    problems += wrong or size_problems(config.all_stages())
    return [f"data.{problem}" for problem in dict.fromkeys(problems)]


def check_data(config: DataConfig, tokenizer: TokenizerConfig | None = None) -> None:
    """Raises a UserError listing every problem of both configs."""
    problems = data_problems(config)
    if tokenizer is not None:
        problems += [f"tokenizer.{problem}" for problem in tokenizer.problems()]
    if problems:
        raise UserError("config", "; ".join(problems))
