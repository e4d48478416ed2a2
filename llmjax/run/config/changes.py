"""What may differ between a stored config and one that goes on with its run."""

from fnmatch import fnmatch
from typing import Any

from llmjax.run.config.build import plain
from llmjax.run.config.schema import Config

# Fields (and all below them; * is any number) that may differ when a run goes on. None of them
# moves a batch. Those of how the work is done (compute, mesh, accumulate) change how sums
# are rounded, and accumulate also which activations drop out; with another number of steps the
# rest of the schedule is that of the new total.
MAY_CHANGE = (
    "run_dir",
    "steps",
    "epochs",
    "mesh",
    "cpu_devices",
    "log",
    "checkpoint",
    "evaluation",
    "samples",
    "max_skipped_steps",
    "compute",
    "optimizer.accumulate",
    "data.cache_dir",
    "data.prefetch",
    "data.workers",
    "tasks.*.no_answer_threshold",
    "tasks.*.beams",
    "tasks.*.bleu_tokenize",
)

# With these a model has parameters that an imported one lacks, or begins elsewhere.
ADDED = ("tasks", "init_from", "model.lora", "model.pooler")


def differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted name -> (old, new) of every field in which two configs (or their parts) differ."""
    old, new = plain(old), plain(new)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return {} if old == new else {prefix: (old, new)}
    if old.keys() != new.keys():
        return {prefix: (old, new)}
    dot = f"{prefix}." if prefix else ""
    found: dict[str, tuple[Any, Any]] = {}
    for key in old:
        found |= differences(old[key], new[key], f"{dot}{key}")
    return found


def added(stored: Config, config: Config) -> list[str]:
    """Names of fields by which `config` asks for more than an imported model of `stored` has."""
    return [
        name
        for name, (_, new) in differences(stored, config).items()
        if new and any(name == one or name.startswith(f"{one}.") for one in ADDED)
    ]


def decisive(stored: Config, config: Config) -> list[str]:
    """The differences, in words, for which a run of `stored` cannot go on as `config`."""
    return [
        f"{name} {old!r} -> {new!r}"
        for name, (old, new) in differences(stored, config).items()
        if not any(fnmatch(name, free) or name.startswith(f"{free}.") for free in MAY_CHANGE)
    ]
