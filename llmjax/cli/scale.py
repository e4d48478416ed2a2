"""`llmjax scale`."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from llmjax.cli.command import Call, Command, Output
from llmjax.cli.train import ALIASES as TRAIN_ALIASES
from llmjax.run.config.checks import validate
from llmjax.run.config.files import load_config_file
from llmjax.run.config.overrides import HELP
from llmjax.run.config.schema import Config
from llmjax.scaling.coordinates import coordinate_check, exponents
from llmjax.scaling.coordinates_page import table as grown
from llmjax.scaling.coordinates_page import write_coordinates
from llmjax.scaling.engines.engine import AnyEngine
from llmjax.scaling.engines.local import LocalEngine
from llmjax.scaling.folder import LadderFolder
from llmjax.scaling.ladder import LadderConfig
from llmjax.scaling.report import write_report
from llmjax.scaling.scale import in_words, scale, summary, table, train_named

ALIASES = TRAIN_ALIASES | {
    "depths": "ladder.depths",
    "ratios": "ladder.ratios",
    "seeds": "ladder.seeds",
    "held-out-depth": "ladder.held-out-depth",
    "held-out-factor": "ladder.held-out-factor",
}


@dataclass(frozen=True)
class ScaleOptions(Config):
    """The config that a ladder varies, and which runs it has."""

    ladder: LadderConfig = field(default_factory=LadderConfig)
    """Which runs are trained."""
    engine: AnyEngine = field(default_factory=LocalEngine)
    """Where: local, slurm or ray."""
    row: str | None = None
    """Train only the runs that begin with this one, in this process, as engines ask for it."""

    @property
    def config(self) -> Config:
        """The config alone."""
        names = (item.name for item in dataclasses.fields(Config))
        return Config(**{name: getattr(self, name) for name in names})


def run(call: Call[ScaleOptions]) -> Output | None:
    """Trains and fits, or shows what it would train."""
    options = call.options
    path = Path(options.run_dir)
    if options.row is not None:
        train_named(LadderFolder.open(path), options.row)
        return None
    if "coordinates" in call.flags:
        config = options.config
        found = coordinate_check(config)
        page = write_coordinates(found, config, path / "coordinates.html")
        rows = {along: exponents(found, along) for along in ("width", "depth")}
        return Output({"exponents": rows, "report": str(page)}, f"{grown(found)}\nreport: {page}")
    if "dry-run" in call.flags:
        folder = LadderFolder(path, options.config, options.ladder)
        members = folder.members()
        runs = [{"run": m.name, "tokens": m.tokens, "flops": m.flops} for m in members]
        return Output({"runs": runs}, table(members))
    folder = LadderFolder.create(path, options.config, options.ladder)
    folder.members()  # whose configs are checked before the first is trained
    scaled = scale(folder, options.engine)
    page = write_report(scaled)
    data = summary(scaled) | {"report": str(page)}
    return Output(data, f"{in_words(scaled)}\nreport: {page}")


def _defaults(name: str) -> ScaleOptions:
    """Of a ladder's folder, to continue it, or of any config."""
    if (Path(name) / "ladder.json").is_file():
        found = LadderFolder.open(Path(name))
        return ScaleOptions(**vars(found.config), ladder=found.ladder)
    return ScaleOptions(**vars(load_config_file(name)))


def _finish(options: ScaleOptions, flags: frozenset[str]) -> ScaleOptions:
    own = {"ladder", "engine", "row"}
    rest = {name: value for name, value in vars(options).items() if name in own}
    return ScaleOptions(**vars(validate(options.config)), **rest)


SCALE = Command(
    about="Trains a ladder of runs, of several depths and numbers of tokens, into the folder "
    "--run-dir, fits a scaling law to their bits per byte, and writes the prediction of a larger "
    "run before it is trained. CONFIG, as for `llmjax train`, sets what all runs share; or it is "
    "the folder of a ladder, which continues.",
    positionals=("CONFIG",),
    usage="[--depths N ...] [--ratios X ...] [--held-out-depth N] [--field value ...]",
    options=ScaleOptions,
    run=run,
    flags={
        "dry-run": "Show the runs with their sizes, and train nothing.",
        "coordinates": "Train CONFIG's model at 1 to 8 times its width and depth for a few steps, "
        "and show how activations and their changes grow.",
    },
    notes=HELP,
    shown=(
        "run_dir", "ladder.depths", "ladder.ratios", "ladder.seeds", "ladder.held_out_depth",
        "ladder.held_out_factor", "engine", "data.sources", "parametrization", "optimizer",
        "optimizer.learning_rate",
    ),
    aliases=ALIASES,
    defaults=_defaults,
    validated=True,
    check=lambda options: [f"ladder.{line}" for line in options.ladder.problems()],
    finish=_finish,
    compiles=False,
)  # fmt: skip
