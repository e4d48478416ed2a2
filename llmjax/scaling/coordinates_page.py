"""The picture of a coordinate check."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from llmjax.errors import UserError
from llmjax.reporting.charts import Axis, Chart, Series, span
from llmjax.reporting.curves import Figure, View
from llmjax.reporting.report import render
from llmjax.reporting.series import describe, values_json
from llmjax.run.config.schema import Config
from llmjax.run.config.storage import package_version
from llmjax.scaling.coordinates import QUANTITIES, Coordinates, exponents
from llmjax.storage.writing import write_atomically

ALONG = ("width", "depth")


@dataclass(frozen=True)
class CoordinatesPage:
    """The variables of the template, in the order of the page."""

    name: str
    lede: str
    figures: Sequence[Figure]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    version: str
    date: datetime


def write_coordinates(found: Sequence[Coordinates], config: Config, out: Path) -> Path:
    """Writes the page; returns its path.

    Raises:
      UserError: it cannot be written.
    """
    model = config.model
    page = CoordinatesPage(
        name=f"Coordinate check: {config.parametrization.kind}",
        lede=f"Models of multiples of width {model.d_model} and of {model.num_decoder_layers} "
        f"layers, trained for a few steps at learning rate {config.optimizer.learning_rate:g}.",
        figures=[_figure(found, along) for along in ALONG],
        columns=["Along", "Times", *(name.capitalize() for name in QUANTITIES)],
        rows=[
            [each.along, str(each.factor), *(f"{value:.3g}" for value in each.values)]
            for each in found
        ],
        version=package_version(),
        date=datetime.now(UTC),
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, render("coordinates.html", page))
    except OSError as error:
        raise UserError(out, f"cannot be written: {error.strerror or error}") from error
    return out


def table(found: Sequence[Coordinates]) -> str:
    """The exponents: how each quantity grows."""
    lines = [f"{'grows with':<12}" + "".join(f"{name:>20}" for name in QUANTITIES)]
    for along in ALONG:
        slopes = "".join(f"{slope:>20.2f}" for slope in exponents(found, along))
        lines.append(f"{along + ' to the':<12}{slopes}")
    return "\n".join(lines)


def _figure(found: Sequence[Coordinates], along: str) -> Figure:
    kept = [each for each in found if each.along == along]
    series = [
        Series(name, f"run{index}", [(float(e.factor), e.values[index]) for e in kept], dots=True)
        for index, name in enumerate(QUANTITIES)
    ]
    x_axis = span([point[0] for point in series[0].points], log=True) or Axis(1, 2, log=True)
    ys = [y for each in series for _, y in each.points]
    y_axis = span(ys, log=True) or Axis(0.1, 1, log=True)
    title = f"Sizes by {along}; a flat line is a size that keeps"
    shown = describe(title, {each.name: each.points for each in series}, along)

    def chart(width: int) -> Chart:
        return Chart(
            shown, series, x_axis, y_axis, width=width, height=280, margin=130,
            x_label=f"times the {along}", y_label="root mean square",
        )  # fmt: skip

    key = f"coordinates-{along}"
    view = View("", chart(720).svg(f"{key}-wide"), chart(420).svg(f"{key}-narrow"))
    return Figure(key, title, [view], values_json(series, x_axis))
