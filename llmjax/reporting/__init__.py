"""`llmjax report RUN`: a run as one offline HTML page."""

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from llmjax.errors import UserError
from llmjax.reporting.archive import read_archive
from llmjax.reporting.heldout import Comparison, compare, heldout_text
from llmjax.reporting.history import read_history
from llmjax.reporting.measured import read_measures
from llmjax.reporting.page import Page, kind_of, make_page
from llmjax.run import environment
from llmjax.run.config.options import keyword_options
from llmjax.run.folder import Run
from llmjax.storage.writing import write_atomically

__all__ = ["render", "report"]


@dataclass(frozen=True)
class ReportOptions:
    """Options of report."""

    out: str | None = None
    """The page's path, which is replaced in one piece; none: RUN/report.html."""


@keyword_options("out")
def report(run: str | Path, options: ReportOptions) -> Path:
    """Writes the report of a run: curves, comparison, samples, config, environment.

    The page is one file that needs no network and no JavaScript. It says what a run lacks (no
    evaluation yet, no samples, no environment) instead of leaving it out.

    Args:
      run: the run folder.
      options: fields of ReportOptions, also as keywords.

    Returns:
      The page's path.

    Raises:
      UserError: `run` is no run folder, its config cannot be read, or `out` cannot be written.
    """
    opened = Run.open(run)
    config = opened.config()
    kind = kind_of(config)
    why = f"Not compared: with {config.objective.kind} training most of a text is given to the "
    why += "model, so it puts no price on a whole one."
    path = opened.report if options.out is None else Path(options.out)
    page = make_page(
        name=opened.folder.resolve().name,
        config=config,
        history=read_history(opened.folder),
        environment=environment.read(opened.folder / "environment.json"),
        comparison=compare(opened.folder, lambda: heldout_text(opened, config))
        if kind == "text"
        else Comparison([], None, [why] if kind == "hidden" else []),
        archive=read_archive(opened.folder),
        tasks=read_measures(opened.folder) if kind == "tasks" else [],
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, render(page))
    except OSError as error:
        raise UserError(path, f"cannot be written: {error.strerror or error}") from error
    return path


def render(page: Page) -> str:
    """The page as HTML, every value in it escaped."""
    templates = Environment(
        loader=PackageLoader("llmjax.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = templates.get_template("page.html").render(page=page)
    return text.encode("utf-8", "replace").decode("utf-8")
