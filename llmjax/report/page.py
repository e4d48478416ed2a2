"""The page as data: what the template shows, in its order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from llmjax.config import Config
from llmjax.config.storage import package_version
from llmjax.report import bars, facts, record, words
from llmjax.report.bars import Bar
from llmjax.report.curves import Figure, figures
from llmjax.report.facts import Fact
from llmjax.report.heldout import Comparison
from llmjax.report.history import History, last
from llmjax.report.samples import Written, written
from llmjax.report.settings import Group, groups


@dataclass(frozen=True)
class Page:
    """Everything that the template shows."""

    name: str
    lede: str
    headline: Sequence[Fact]
    warnings: Sequence[str]
    bars: Sequence[Bar]
    bars_caption: str
    bars_notes: Sequence[str]
    reference: str
    figures: Sequence[Figure]
    figures_notes: Sequence[str]
    samples: Sequence[Written]
    samples_note: str
    command: str
    tables: Sequence[tuple[str, Sequence[Fact]]]
    config: Sequence[Group]
    notes: Sequence[str]
    version: str
    date: datetime


def make_page(
    name: str,
    config: Config,
    history: History,
    environment: Mapping[str, Any],
    comparison: Comparison,
) -> Page:
    """Gathers the page of a run.

    Args:
      name: of the run, as its headline.
      config: the run's.
      history: what it logged.
      environment: contents of environment.json, {} where there is none.
      comparison: the compressors' figures on its held-out text.
    """
    session = (record.sessions(environment) or [{}])[-1]
    drawn = figures(history, comparison.baselines)
    return Page(
        name=name,
        lede=words.lede(config, history, environment),
        headline=words.headline(history, environment, comparison),
        warnings=words.warnings(config, history),
        bars=bars.bars(history, comparison),
        bars_caption=bars.caption(comparison),
        bars_notes=bars.notes(history, comparison),
        reference=comparison.baselines[0].name if comparison.baselines else "",
        figures=drawn,
        figures_notes=words.figures_notes(history, comparison),
        samples=written(history.samples),
        samples_note=words.samples_note(config, history),
        command=str(session.get("command") or ""),
        tables=tables(config, history, environment),
        config=groups(config),
        notes=words.footnotes(history, environment),
        version=package_version(),
        date=datetime.now(UTC),
    )


def tables(
    config: Config, history: History, environment: Mapping[str, Any]
) -> list[tuple[str, list[Fact]]]:
    """The record: captions and facts."""
    trained = last(history.train, "tokens")
    sessions = record.sessions(environment)
    seconds = record.wall_seconds(history, environment)
    model, data = (record.part(environment, key) for key in ("model", "data"))
    return [
        ("Held-out evaluation", facts.evaluation_facts(history)),
        ("Model", facts.model_facts(config, model)),
        ("Data", facts.data_facts(config, data, trained)),
        ("Training", facts.work_facts(history, environment, seconds)),
        ("Environment", facts.environment_facts(sessions[-1] if sessions else {})),
    ]
