"""The tiles below the headline: the size of the model, its hardware, and how well that was used."""

from collections.abc import Mapping
from typing import Any

from llmjax.reporting.facts import Fact, median
from llmjax.reporting.format import count, percent, short
from llmjax.reporting.records import History, finite_number, latest_session, section

UNKNOWN = "n/a"


def tiles(history: History, environment: Mapping[str, Any]) -> list[Fact]:
    """Returns parameters, hardware, throughput and MFU; n/a if unknown."""
    session = latest_session(environment)
    cores = finite_number(section(session, "machine"), "cores")
    on_cpu = section(session, "devices").get("platform") == "cpu"
    where = f" ({count(cores)} core{'' if cores == 1 else 's'})" if cores and on_cpu else ""
    return [
        Fact("parameters", parameters(environment)),
        Fact(f"hardware{where}", hardware(environment)),
        Fact("throughput, median", throughput(history)),
        Fact("MFU, median", mfu(history)),
    ]


def parameters(environment: Mapping[str, Any]) -> str:
    """Returns the number of parameters."""
    value = finite_number(section(environment, "model"), "parameters")
    return UNKNOWN if value is None else short(value)


def hardware(environment: Mapping[str, Any]) -> str:
    """Returns the number and kind of the devices of the latest start."""
    devices = section(latest_session(environment), "devices")
    number, kind = finite_number(devices, "count"), str(devices.get("kind") or "device")
    if number is None:
        return UNKNOWN
    if kind in ("cpu", "device"):
        kind = "CPU device" if kind == "cpu" else kind
        return f"{count(number)} {kind}{'' if number == 1 else 's'}"
    return f"{count(number)} \N{MULTIPLICATION SIGN} {kind}"


def throughput(history: History) -> str:
    """Returns the median of the logged tokens per second."""
    value = median(history.train, "tokens_per_second")
    return UNKNOWN if value is None else f"{short(value)} tokens/s"


def mfu(history: History) -> str:
    """Returns the median of the logged model FLOPs utilization."""
    value = median(history.train, "mfu")
    return UNKNOWN if value is None else percent(value)
