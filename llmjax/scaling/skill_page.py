"""The page of skill against bits: the plot, the lines, and all figures; and the table as CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from llmjax.errors import UserError
from llmjax.reporting.charts import Axis, Chart, Series, span
from llmjax.reporting.curves import Figure, View
from llmjax.reporting.format import count
from llmjax.reporting.report import render
from llmjax.reporting.series import describe, values_json
from llmjax.run.config.storage import package_version
from llmjax.scaling.skill import CHOICES, Skill
from llmjax.storage.writing import write_atomically


@dataclass(frozen=True)
class SkillPage:
    """The variables of the template, in the order of the page."""

    name: str
    lede: str
    figures: Sequence[Figure]
    lines: Sequence[Sequence[str]]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: Sequence[Sequence[str]]
    version: str
    date: datetime


def write_skill(result: Skill, out: Path) -> Path:
    """Writes the page, and the table beside it with the ending .csv; returns the page's path.

    Raises:
      UserError: they cannot be written.
    """
    try:
        write_atomically(out.with_suffix(".csv"), _csv(result))
        write_atomically(out, render("skill.html", make_page(result)))
    except OSError as error:
        raise UserError(out, f"cannot be written: {error.strerror or error}") from error
    return out


def make_page(result: Skill) -> SkillPage:
    """Gathers the page."""
    return SkillPage(
        name="Skill against bits",
        lede=f"{len(result.models)} models: bits per byte of {len(result.texts)} texts, against "
        f"how often the true continuation is found among {CHOICES}.",
        figures=[_figure(result)],
        lines=[
            [
                f"{line.length} characters", f"{line.correlation:+.3f}",
                f"{line.low:+.3f} to {line.high:+.3f}", f"{100 * line.slope:+.1f} points per bit",
            ]
            for line in result.lines
        ],
        columns=_columns(result),
        rows=[
            [
                model.name, f"{model.step}", count(model.parameters),
                *(f"{bits:.4f}" for bits in model.bits),
                *(f"{share:.1%}" for share in model.accuracy),
            ]
            for model in sorted(result.models, key=lambda model: model.mean_bits)
        ],
        texts=[[text.name, f"{len(text.content):,}", text.sha256] for text in result.texts],
        version=package_version(),
        date=datetime.now(UTC),
    )  # fmt: skip


def _columns(result: Skill) -> list[str]:
    return [
        "Model",
        "Step",
        "Parameters",
        *(f"Bits per byte, {text.name}" for text in result.texts),
        *(f"Accuracy, {length} characters" for length in result.lengths),
    ]


def _figure(result: Skill) -> Figure:
    models = sorted(result.models, key=lambda model: model.mean_bits)
    bits = [model.mean_bits for model in models]
    series = []
    for index, length in enumerate(result.lengths):
        points = [(x, 100 * model.accuracy[index]) for x, model in zip(bits, models, strict=True)]
        series.append(Series("", f"run{index}", points, line=False))
        for line in result.lines:
            if line.length == length:
                ends = [(x, 100 * (line.slope * x + line.intercept)) for x in (bits[0], bits[-1])]
                series.append(Series(f"{length} characters", f"run{index}", ends))
    ys = [y for each in series for _, y in each.points] + [100 / CHOICES]
    x_axis, y_axis = span(bits) or Axis(0, 1), span(ys) or Axis(0, 100)
    title = "Share of true continuations found, by mean bits per byte"
    names = {f"{n} characters": s.points for n, s in zip(result.lengths, series, strict=False)}
    shown = describe(title, names, "bits per byte")

    def chart(width: int) -> Chart:
        return Chart(
            shown, series, x_axis, y_axis, [("chance", 100 / CHOICES)], width=width, height=320,
            margin=100, x_label="bits per byte", y_label="%",
        )  # fmt: skip

    view = View("", chart(720).svg("skill-wide"), chart(400).svg("skill-narrow"))
    return Figure("skill", title, [view], values_json(series, x_axis))


def _csv(result: Skill) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_columns(result))
    for model in result.models:
        writer.writerow([model.name, model.step, model.parameters, *model.bits, *model.accuracy])
    return text.getvalue()
