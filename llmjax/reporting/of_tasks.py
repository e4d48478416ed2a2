"""What the page says of a run of tasks: its headline, its tables, its accounting."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmjax.metrics.names import in_words, task_metrics, value_in_words
from llmjax.reporting import record
from llmjax.reporting.facts import UNKNOWN, Fact
from llmjax.reporting.history import History, last, number
from llmjax.reporting.measured import Task
from llmjax.reporting.numbers import count, duration, percent, short
from llmjax.run.config.schema import Config
from llmjax.tasks.config import name_of

MOST_LABELS = 12
"""Labels whose shares of the examples are listed."""

ACCOUNTING = (
    "Figures are of held-out examples, which are never learnt from; training curves are of single "
    "batches. Intervals come from drawing as many examples anew, with replacement (the "
    "percentile bootstrap) and say how much other examples of the same kind might change a figure, "
    "not how much another training would."
)


def headline(history: History, environment: Mapping[str, Any], tasks: Sequence[Task]) -> list[Fact]:
    """The first figure of each task, or the first two of a single one; what it cost."""
    if tasks:
        own = [[(one.words, one.value) for one in task.figures] for task in tasks]
        names = [task.name for task in tasks]
    else:
        evals = task_metrics(dict.fromkeys(name for line in history.evals for name in line))
        names, own = list(evals), [_latest(history, figures) for figures in evals.values()]
    if len(names) == 1:
        where = (" on held-out examples", "")
        own[0] = own[0][:2]
        found = [Fact(one[0] + place, one[1]) for one, place in zip(own[0], where, strict=False)]
    else:
        firsts = [(name, figures[0]) for name, figures in zip(names, own, strict=True) if figures]
        found = [Fact(f"{words}, {name}", value) for name, (words, value) in firsts[:3]]
    seconds = record.wall_seconds(history, environment)
    tokens = last(history.train, "tokens")
    found += [Fact("tokens trained on", short(tokens))] if tokens and len(found) < 3 else []
    return [*found, *([Fact("wall-clock time", duration(seconds))] if seconds else [])]


def _latest(history: History, figures: Sequence[str]) -> list[tuple[str, str]]:
    known = [(name, last(history.evals, name)) for name in figures]
    return [
        (in_words(name), value_in_words(name, value)) for name, value in known if value is not None
    ]


def subject(environment: Mapping[str, Any]) -> str:
    """What was learnt from: the examples of all tasks; empty if that is not known."""
    data = record.part(environment, "data")
    counts = [record.known_number(record.part(data, name), "train_examples") for name in data]
    known = [number for number in counts if number is not None]
    if not known:
        return ""
    tasks = "" if len(known) == 1 else f" of {count(len(known))} tasks"
    return f" on {count(sum(known))} examples{tasks}"


def evaluation_facts(history: History) -> list[Fact]:
    """The figures of the last evaluation in training."""
    if not history.evals:
        return [Fact("While training", "not evaluated yet")]
    line = history.evals[-1]
    facts = [Fact("Step", count(line["step"]))]
    tasks = task_metrics(line)
    for task, figures in tasks.items():
        for name in figures:
            value, label = record.known_number(line, name), in_words(name)
            shown = "not finite" if value is None else value_in_words(name, value)
            facts.append(Fact(f"{task}: {label}" if task else label[:1].upper() + label[1:], shown))
    if len(tasks) > 1:
        loss = record.known_number(line, "loss")
        facts.append(Fact("Mean loss", "not finite" if loss is None else f"{loss:.4f}"))
    return facts


def data_facts(config: Config, recorded: Mapping[str, Any], history: History) -> list[Fact]:
    """Each task's examples and labels."""
    facts: list[Fact] = []
    for task in config.tasks:
        found = record.part(recorded, name_of(task))
        learnt, tokens, rows = (
            record.known_number(found, key)
            for key in ("train_examples", "train_tokens", "heldout_rows")
        )
        known = [
            f"{count(learnt)} examples" if learnt is not None else "",
            f"{short(tokens)} tokens" if tokens is not None else "",
            f"{count(rows)} rows held out" if rows is not None else "",
        ]
        named = f"of kind {task.kind}" if name_of(task) != task.kind else ""
        facts.append(Fact(name_of(task), ", ".join(filter(None, known)) or UNKNOWN, named))
        if labels := _labels(record.part(found, "labels")):
            facts.append(Fact("Its labels", labels, "share of the examples to learn from"))
    facts.append(Fact("Tokenizer", config.tokenizer.kind))
    epochs = last(history.train, "epoch")
    if epochs is not None:
        facts.append(Fact("Epochs", f"{epochs:.2f}", "passes through the examples"))
    return facts


def _labels(counts: Mapping[str, Any]) -> str:
    known = {name: number(counts, name) for name in counts}
    known = {name: times for name, times in known.items() if times >= 0}
    total = sum(known.values())
    if not total:
        return ""
    largest = sorted(known.items(), key=lambda item: -item[1])
    listed = [f"{name} {percent(times / total)}" for name, times in largest[:MOST_LABELS]]
    more = len(known) - MOST_LABELS
    return ", ".join(listed) + (f", and {count(more)} more" if more > 0 else "")
