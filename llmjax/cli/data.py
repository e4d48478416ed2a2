"""`llmjax data build`."""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

from llmjax.cli.command import Call, Command, Output
from llmjax.data.datatrove.executors import AnyExecutor
from llmjax.data.progress import Progress, terminal_progress
from llmjax.data.text.corpus import validation_documents
from llmjax.data.text.store_building import PUBLISHING
from llmjax.errors import UserError
from llmjax.run.config.checks import validate
from llmjax.run.config.files import load_config_file
from llmjax.run.config.overrides import HELP
from llmjax.run.config.schema import Config
from llmjax.training.initialization import resolve_init_from
from llmjax.training.pretraining import build_text

ALIASES = {
    "workers": "data.workers",
    "shards": "data.shards",
    "deduplicate": "data.deduplicate",
    "max-tokens": "data.max-tokens",
    "sources": "data.sources",
    "cache-dir": "data.cache-dir",
    "store": "data.store",
}
SHOWN = (
    "executor",
    "data.sources",
    "data.shards",
    "data.deduplicate",
    "data.max_tokens",
    "data.workers",
    "data.validation_fraction",
    "data.validation_max_bytes",
    "data.cache_dir",
    "data.store",
    "tokenizer",
    "tokenizer.vocab_size",
)


@dataclass(frozen=True)
class BuildOptions(Config):
    """The config of the runs that will find the store, and how it is built."""

    executor: AnyExecutor | None = None
    """Where datatrove tokenizes the shards; none: processes of this command do, without it."""

    @property
    def config(self) -> Config:
        """The config alone."""
        names = (field.name for field in dataclasses.fields(Config))
        return Config(**{name: getattr(self, name) for name in names})


class _Meter:
    """Passes progress on, counts the bytes that were tokenized, and notes what was published."""

    def __init__(self, show: Progress):
        self._show = show
        self._done: dict[str, int] = {}
        self.published = False
        """Whether a token store was completed."""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """See `Progress`."""
        if stage.startswith("Tokenizing"):
            self._done[stage] = done
        self.published |= stage == PUBLISHING
        self._show(stage, done, total)

    @property
    def num_bytes(self) -> int:
        """Bytes of text."""
        return sum(self._done.values())


def run(call: Call[BuildOptions]) -> Output:
    """Prepares the store; prints its sizes and the speed."""
    config, executor = call.options.config, call.options.executor
    if config.tasks:
        fix = "llmjax train reads the examples of tasks by itself"
        raise UserError("config", "has tasks, which are trained on examples, not on text", fix)
    if executor is not None and not config.data.is_sharded:
        raise UserError("--executor", "builds shards, and data.shards is 1", "give --shards N")
    start = time.perf_counter()
    with terminal_progress() as show:
        meter = _Meter(show)
        corpus = build_text(resolve_init_from(config), meter, executor)
    seconds = time.perf_counter() - start
    held_out = list(validation_documents(corpus))
    copies = [source.duplicates for source in corpus.sources]
    known = [count for count in copies if count is not None]
    data: dict[str, Any] = {
        "documents": corpus.num_documents,
        "tokens": corpus.num_tokens,
        "bytes": corpus.num_bytes,
        "heldout_documents": len(held_out),
        "heldout_bytes": sum(document.bytes for document in held_out),
        "duplicates": sum(known) if len(known) == len(copies) else None,
        "filters": [
            {"source": number, **dataclasses.asdict(count), "dropped": count.total}
            for number, source in enumerate(corpus.sources)
            for count in source.dropped
        ],
        "tokenized_bytes": meter.num_bytes,
        "published": meter.published,
        "seconds": seconds,
        "bytes_per_second": meter.num_bytes / seconds if meter.num_bytes else None,
    }
    return Output(data, _text(data))


def _text(data: dict[str, Any]) -> str:
    def count(name: str) -> str:
        return "n/a" if data[name] is None else f"{data[name]:,}"

    lines = [
        f"training:   {count('documents')} documents, {count('tokens')} tokens, "
        f"{count('bytes')} bytes",
        f"validation: {count('heldout_documents')} documents, {count('heldout_bytes')} bytes",
        f"duplicates: {count('duplicates')} documents removed",
    ]
    lines += [_filter_line(count) for count in data["filters"]]
    if speed := data["bytes_per_second"]:
        lines.append(
            f"tokenized:  {count('tokenized_bytes')} bytes in {data['seconds']:.1f} s, "
            f"{speed / 1e6:.2f} MB/s"
        )
    elif data["published"]:
        lines.append("tokenized:  nothing; all shards were complete, and the store was published")
    else:
        lines.append("tokenized:  nothing; the store was complete")
    return "\n".join(lines)


def _filter_line(count: dict[str, Any]) -> str:
    reasons = sorted(count["reasons"].items(), key=lambda item: -item[1])
    why = ", ".join(f"{reason} {number:,}" for reason, number in reasons)
    line = f"filter:     {count['filter']} dropped {count['dropped']:,} of {count['documents']:,} "
    line += f"documents of source {count['source']}"
    return line + (f" ({why})" if list(count["reasons"]) not in ([], ["dropped"]) else "")


def _defaults(name: str) -> BuildOptions:
    return BuildOptions(**vars(load_config_file(name)))


def _finish(options: BuildOptions, flags: frozenset[str]) -> BuildOptions:
    return BuildOptions(**vars(validate(options.config)), executor=options.executor)


DATA = Command(
    about="Prepares the token store of CONFIG (as for `llmjax train`) ahead of time, in the cache "
    "where `llmjax train` finds it. Several --data.shards are prepared by --workers processes at "
    "the same time, or by datatrove, on the --executor: this machine (local), SLURM or Ray. "
    "After an interruption, the same command continues with the shards that are missing.",
    positionals=("build", "CONFIG"),
    usage="[--workers N] [--shards N] [--executor NAME] [--field value ...]",
    options=BuildOptions,
    run=run,
    notes=HELP,
    shown=SHOWN,
    aliases=ALIASES,
    defaults=_defaults,
    validated=True,
    finish=_finish,
    compiles=False,
)
