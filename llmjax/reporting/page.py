"""The page as data: what the template shows, in its order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from llmjax.reporting import bars, facts, of_tasks, record, words
from llmjax.reporting.archive import Archive
from llmjax.reporting.bars import Bar
from llmjax.reporting.curves import Figure, figures
from llmjax.reporting.facts import Fact
from llmjax.reporting.heldout import Comparison
from llmjax.reporting.history import History, last
from llmjax.reporting.measured import Task
from llmjax.reporting.samples import Written, written
from llmjax.reporting.settings import Group, groups
from llmjax.reporting.task_curves import task_curves
from llmjax.run.config.schema import Config
from llmjax.run.config.storage import package_version


@dataclass(frozen=True)
class Page:
    """Everything that the template shows."""

    name: str
    kind: Literal["text", "hidden", "tasks"]
    lede: str
    headline: Sequence[Fact]
    warnings: Sequence[str]
    bars: Sequence[Bar]
    bars_caption: str
    bars_notes: Sequence[str]
    reference: str
    tasks: Sequence[Task]
    archive: Archive | None
    figures: Sequence[Figure]
    figures_notes: Sequence[str]
    samples: Sequence[Written]
    samples_note: str
    samples_due: bool
    command: str
    tables: Sequence[tuple[str, Sequence[Fact]]]
    config: Sequence[Group]
    accounting: str
    notes: Sequence[str]
    version: str
    date: datetime


def make_page(
    name: str,
    config: Config,
    history: History,
    environment: Mapping[str, Any],
    comparison: Comparison,
    tasks: Sequence[Task] = (),
    archive: Archive | None = None,
) -> Page:
    """Gathers the page of a run.

    Args:
      name: of the run, as its headline.
      config: the run's.
      history: what it logged.
      environment: contents of environment.json, {} where there is none.
      comparison: the compressors' figures on its held-out text.
      tasks: what was measured of its tasks.
      archive: the last one that it compressed something to.
    """
    session = (record.sessions(environment) or [{}])[-1]
    learnt = bool(config.tasks)
    drawn = figures(history, comparison.baselines, tasks=len(config.tasks))
    drawn[1:1] = task_curves(history) if learnt else []
    return Page(
        name=name,
        kind=kind_of(config),
        lede=words.lede(config, history, environment),
        headline=of_tasks.headline(history, environment, tasks)
        if learnt
        else words.headline(history, environment, comparison),
        warnings=words.warnings(config, history, measured=bool(tasks)),
        bars=bars.bars(history, comparison),
        bars_caption=bars.caption(comparison),
        bars_notes=bars.notes(history, comparison),
        reference=comparison.baselines[0].name if comparison.baselines else "",
        tasks=tasks,
        archive=archive,
        figures=drawn,
        figures_notes=words.figures_notes(history, comparison),
        samples=written(history.samples),
        samples_due=bool(config.samples.every),
        samples_note=words.samples_note(config, history),
        command=str(session.get("command") or ""),
        tables=tables(config, history, environment),
        config=groups(config),
        accounting=words.accounting(config),
        notes=words.footnotes(history, environment),
        version=package_version(),
        date=datetime.now(UTC),
    )


def kind_of(config: Config) -> Literal["text", "hidden", "tasks"]:
    """What was learnt: text from its beginning on, what is hidden of text, or tasks."""
    if config.tasks:
        return "tasks"
    return "text" if config.objective.is_causal else "hidden"


def tables(
    config: Config, history: History, environment: Mapping[str, Any]
) -> list[tuple[str, list[Fact]]]:
    """The record: captions and facts."""
    trained = last(history.train, "tokens")
    sessions = record.sessions(environment)
    seconds = record.wall_seconds(history, environment)
    model, data = (record.part(environment, key) for key in ("model", "data"))
    evaluation = of_tasks.evaluation_facts if config.tasks else facts.evaluation_facts
    return [
        ("Held-out evaluation", evaluation(history)),
        ("Model", facts.model_facts(config, model)),
        (
            "Data",
            of_tasks.data_facts(config, data, history)
            if config.tasks
            else facts.data_facts(config, data, trained),
        ),
        ("Training", facts.work_facts(history, environment, seconds)),
        ("Environment", facts.environment_facts(sessions[-1] if sessions else {})),
    ]
