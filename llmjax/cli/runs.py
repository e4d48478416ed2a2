"""`llmjax runs`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llmjax.cli.command import Call, Command, Output
from llmjax.errors import UserError, printable
from llmjax.metrics.names import display_value, is_cost, judging_metric, task_title
from llmjax.run.config.checks import MISSING, value_at, varying_fields
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.storage.stores.path import Location, StorePath, location

MAX_DIFFERENCES = 4
"""Fields shown of a run's config; `--json` has them all."""


@dataclass(frozen=True)
class RunsOptions:
    """Options of `llmjax runs`."""

    folder: str = "runs"
    """Folder that holds the run folders."""


def run(call: Call[RunsOptions]) -> Output:
    """Lists the runs of a folder, oldest first."""
    listed = list_runs(location(call.options.folder))
    return Output({"runs": listed}, "\n".join(_lines(listed)))


def list_runs(folder: Location) -> list[dict[str, Any]]:
    """Each run in a folder, by the time of its last log line.

    Returns:
      For each run: "run", "step" of its newest checkpoint, "steps" of its config, "best" (a metric
      and its value, or None), "time" in Unix seconds, and "changes", the fields of its config in
      which the listed runs differ (dotted name -> value). If a run cannot be read: "run", "error".

    Raises:
      UserError: the folder does not exist or holds no run.
    """
    folders = _run_folders(folder)
    if not folders:
        reason = "holds no run folder" if folder.is_dir() else "no such folder"
        raise UserError(folder, reason, "first run: llmjax train quickstart; or give --folder")
    described, configs = [], dict[str, Config]()
    for path in folders:
        try:
            run = Run.open(str(path))
            configs[str(path)] = run.config()
            described.append({"run": str(path), **_describe(run, configs[str(path)])})
        except UserError as error:
            described.append({"run": str(path), "time": 0.0, "error": str(error)})
    described.sort(key=lambda entry: entry["time"])
    changes = _changes(configs)
    return [entry | {"changes": changes.get(entry["run"], {})} for entry in described]


def _run_folders(folder: Location) -> Sequence[Location]:
    if isinstance(folder, StorePath):
        return [path for path in folder.folders() if (path / "config.json").is_file()]
    return sorted(path.parent for path in folder.glob("*/config.json"))


def _describe(run: Run, config: Config) -> dict[str, Any]:
    steps, last = run.steps(), 0.0
    best: tuple[str, float] | None = None
    for record in run.records():
        last = max(last, record["time"] if isinstance(record.get("time"), int | float) else 0.0)
        judges = config.evaluation
        by_tasks = judges.task_of_metric is not None
        name = judging_metric(record, judges.metric, is_measured_by_tasks=by_tasks)
        if name is None:
            continue
        sign = 1 if is_cost(name) else -1
        if best is None or sign * record[name] < sign * best[1]:
            best = (name, record[name])
    return {
        "step": steps[-1] if steps else 0,
        "steps": config.steps,
        "best": None if best is None else {"metric": best[0], "value": best[1]},
        "time": last or run.config_path.stat().st_mtime,
    }


def _changes(configs: Mapping[str, Config]) -> dict[str, dict[str, Any]]:
    """The fields in which each config differs from any other one, but for the folder's name."""
    names = varying_fields(list(configs.values()))
    return {
        run: {
            name: value
            for name in names
            if (value := value_at(config, name)) is not None and value is not MISSING
        }
        for run, config in configs.items()
    }


def _lines(listed: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    width = max(len(entry["run"]) for entry in listed)
    for entry in listed:
        name = f"{printable(entry['run']):{width}}"
        if "error" in entry:
            yield f"{name}  {entry['error']}"
            continue
        when = datetime.fromtimestamp(entry["time"]).strftime("%Y-%m-%d %H:%M")
        best = entry["best"]
        figure = f"{task_title(best['metric'])} {display_value(**_named(best))}" if best else ""
        yield f"{name}  {when}  step {entry['step']:,} of {entry['steps']:,}  {figure}".rstrip()
        changes = [f"{field} {value}" for field, value in entry["changes"].items()]
        more = len(changes) - MAX_DIFFERENCES
        shown = [*changes[:MAX_DIFFERENCES], *([f"{more} more"] if more > 0 else [])]
        if shown:
            yield f"    {printable(', '.join(shown))}"


def _named(best: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": best["metric"], "value": best["value"]}


RUNS = Command(
    about="Lists the runs of a folder: when each last trained, its newest checkpoint, its best "
    "validation figure, and the config fields in which the runs differ.",
    positionals=(),
    usage="[--folder runs]",
    options=RunsOptions,
    run=run,
    compiles=False,
)
