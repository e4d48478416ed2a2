"""`llmjax.report`: gathers and renders the HTML page of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from llmjax.errors import UserError
from llmjax.reporting import compressors, facts, summary
from llmjax.reporting import tasks as task_sections
from llmjax.reporting.archive_section import ArchiveSection, read_archive
from llmjax.reporting.commands import ShellCommand, shell_commands
from llmjax.reporting.comparison import make_comparison
from llmjax.reporting.compressors import Bar, Comparison, compare, validation_text
from llmjax.reporting.curves import Figure, figures
from llmjax.reporting.evaluation_tasks import task_facts, task_figures
from llmjax.reporting.facts import Fact
from llmjax.reporting.records import (
    History,
    SampleGroup,
    finite_number,
    last,
    latest_session,
    read_history,
    sample_groups,
    section,
    wall_seconds,
)
from llmjax.reporting.settings import Changes, SettingGroup, changes, setting_groups
from llmjax.reporting.stages import stage_marks, stages_note, trained_stages
from llmjax.reporting.tasks import TaskSection, read_measures
from llmjax.reporting.tiles import tiles
from llmjax.run import environment as run_environment
from llmjax.run.config.options import keyword_options
from llmjax.run.config.schema import Config
from llmjax.run.config.storage import package_version
from llmjax.run.folder import Run
from llmjax.run.telemetry.goodput import read_goodput
from llmjax.storage.stores.mirror import write_back
from llmjax.storage.stores.path import local_path
from llmjax.storage.writing import write_atomically

Subject = Literal["text", "targets", "tasks"]
"""What a run predicts: every token of text, sampled targets in text, or tasks."""


@dataclass(frozen=True)
class Page:
    """The variables of the template, in the order of the page."""

    name: str
    subject: Subject
    lede: str
    headline: Sequence[Fact]
    tiles: Sequence[Fact]
    changes: Changes
    warnings: Sequence[str]
    bars: Sequence[Bar]
    bars_caption: str
    bars_notes: Sequence[str]
    reference: str
    tasks: Sequence[TaskSection]
    archive: ArchiveSection | None
    figures: Sequence[Figure]
    figures_notes: Sequence[str]
    samples: Sequence[SampleGroup]
    samples_note: str
    samples_due: bool
    command: str
    commands: Sequence[ShellCommand]
    tables: Sequence[tuple[str, Sequence[Fact]]]
    config: Sequence[SettingGroup]
    accounting: str
    notes: Sequence[str]
    version: str
    date: datetime


@dataclass(frozen=True)
class ReportOptions:
    """Options of report."""

    out: str | None = None
    """The page's path, which is replaced atomically; none: RUN/report.html, or of several runs
    comparison.html beside them, or in the current folder if they are not in one folder."""


@keyword_options("out")
def report(
    run: str | PathLike[str] | Sequence[str | PathLike[str]], options: ReportOptions
) -> Path:
    """Writes the report of a run: curves, comparison, samples, config, environment.

    The page is one file that needs neither network nor JavaScript. It states what the run lacks
    (evaluations, samples, an environment). Of several runs, it compares their curves, their best
    figures and their configs.

    Args:
      run: the run folder; or several.
      options: fields of ReportOptions, also as keywords.

    Returns:
      The page's path.

    Raises:
      UserError: a run is not a run folder, is named twice or is one of too many; its config cannot
        be read; or the page cannot be written.
    """
    named = [run] if isinstance(run, str | PathLike) else list(run)
    if not named:
        raise UserError("report", "no run is named", "name one or more run folders")
    opened = [Run.open(folder) for folder in named]
    if len(opened) == 1:
        path, text = opened[0].report, render("page.html", make_page(opened[0]))
    else:
        path, text = _beside(opened), render("comparison.html", make_comparison(opened))
    path = path if options.out is None else local_path(options.out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
        write_back(path)
    except OSError as error:
        raise UserError(path, f"cannot be written: {error.strerror or error}") from error
    return path


def _beside(runs: Sequence[Run]) -> Path:
    """Returns the path of a comparison: beside the runs if they are in one folder."""
    parents = {run.folder.resolve().parent for run in runs}
    return (runs[0].folder.parent if len(parents) == 1 else Path()) / "comparison.html"


def make_page(run: Run) -> Page:
    """Gathers the page of a run."""
    config, history = run.config(), read_history(run.folder)
    environment = run_environment.read(run.folder / "environment.json")
    subject = subject_of(config)
    comparison = _comparison(run, config, subject)
    stages = trained_stages(config, history.roll_backs)
    tasks = read_measures(run.folder) if subject == "tasks" else []
    return Page(
        name=run.folder.resolve().name,
        subject=subject,
        lede=summary.lede(config, history, environment),
        headline=task_sections.headline(history, environment, tasks)
        if subject == "tasks"
        else summary.headline(history, environment, comparison),
        tiles=tiles(history, environment),
        changes=changes(config, environment),
        warnings=summary.warnings(config, history, has_measures=bool(tasks)),
        bars=compressors.bars(history, comparison),
        bars_caption=compressors.caption(comparison),
        bars_notes=compressors.notes(history, comparison),
        reference=comparison.baselines[0].name if comparison.baselines else "",
        tasks=tasks,
        archive=read_archive(run.folder),
        figures=[
            *figures(
                history,
                comparison.baselines,
                tasks=len(config.tasks),
                whole=finite_number(section(environment, "data"), "heldout_bytes"),
                marks=stage_marks(stages),
            ),
            *task_figures(history),
        ],
        figures_notes=[*summary.figures_notes(history, comparison), *stages_note(stages)],
        samples=sample_groups(history.samples),
        samples_due=bool(config.samples.every),
        samples_note=summary.samples_note(config, history),
        command=str(latest_session(environment).get("command") or ""),
        commands=shell_commands(run, config, history),
        tables=[
            *tables(config, history, environment),
            ("Goodput", facts.goodput_facts(read_goodput(run.goodput))),
            *(
                [("Stragglers", stragglers)]
                if (stragglers := facts.straggler_facts(history))
                else []
            ),
        ],
        config=setting_groups(config, Config()),
        accounting=summary.accounting(config),
        notes=summary.footnotes(history, environment),
        version=package_version(),
        date=datetime.now(UTC),
    )


def subject_of(config: Config) -> Subject:
    """Returns what a run of this config predicts."""
    if config.tasks:
        return "tasks"
    return "text" if config.objective.is_causal else "targets"


def _comparison(run: Run, config: Config, subject: Subject) -> Comparison:
    """Compares with the classical compressors on validation text, if bits per byte are defined."""
    if subject == "text":
        return compare(run.folder, lambda: validation_text(run, config))
    if subject == "tasks":
        return Comparison([], None, [])
    note = f"Not compared: with the {config.objective.kind} objective the model is given most of "
    note += "the text, so bits per byte are not defined."
    return Comparison([], None, [note])


def tables(
    config: Config, history: History, environment: Mapping[str, Any]
) -> list[tuple[str, list[Fact]]]:
    """Returns the tables of facts, with their captions."""
    trained = last(history.train, "tokens")
    stages = trained_stages(config, history.roll_backs)
    seconds = wall_seconds(history, environment)
    model, data = (section(environment, key) for key in ("model", "data"))
    if config.tasks:
        evaluation = task_sections.evaluation_facts(history)
        data_facts = task_sections.data_facts(config, data, history)
    else:
        evaluation = facts.evaluation_facts(history)
        data_facts = facts.data_facts(config, data, trained)
    spikes = config.spikes.factor > 0
    work = facts.work_facts(history, environment, seconds, stages, spikes=spikes)
    return [
        ("Evaluation", evaluation),
        *([("Tasks while training", task_facts(history))] if history.tasks else []),
        ("Model", facts.model_facts(config, model)),
        ("Data", data_facts),
        ("Training", work),
        ("Environment", facts.environment_facts(latest_session(environment))),
    ]


def render(template: str, page: object) -> str:
    """Renders a page as HTML, with every value escaped."""
    templates = Environment(
        loader=PackageLoader("llmjax.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = templates.get_template(template).render(page=page)
    return text.encode("utf-8", "replace").decode("utf-8")
