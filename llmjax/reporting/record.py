"""environment.json as the report reads it, and what follows from it and the log together."""

import math
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

from llmjax.reporting.history import History, last, number
from llmjax.reporting.numbers import count


def flops_per_token(history: History, environment: Mapping[str, Any]) -> float | None:
    """As recorded, or as the ratio of two logged columns."""
    recorded = known_number(part(environment, "model"), "flops_per_token")
    if recorded is not None:
        return recorded
    flops, tokens = (
        last(history.train, f"{what}_per_second") for what in ("model_flops", "tokens")
    )
    return flops / tokens if flops and tokens else None


def wall_seconds(history: History, environment: Mapping[str, Any]) -> float | None:
    """Time that the run was at work: of every start, from when it was recorded to its last line.

    Without recorded starts, from the first line to the last one.
    """
    times = sorted(history.times)
    if not times:
        return None
    starts = sorted(t for t in (known_number(s, "started") for s in sessions(environment)) if t)
    if not starts or starts[0] > times[0]:
        starts = [times[0], *starts]
    ends = [*starts[1:], math.inf]
    latest = [times[bisect_left(times, end) - 1] for end in ends]
    return sum(max(0.0, line - start) for start, line in zip(starts, latest, strict=True))


def sessions(environment: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The recorded starts of a run, oldest first."""
    found = environment.get("sessions")
    return [s for s in found if isinstance(s, Mapping)] if isinstance(found, list) else []


def devices(environment: Mapping[str, Any]) -> str:
    """What the latest start ran on, in a few words; empty if that is not known."""
    session = (sessions(environment) or [{}])[-1]
    where, cores = part(session, "devices"), known_number(part(session, "machine"), "cores")
    number = known_number(where, "count")
    if where.get("platform") == "cpu" and cores:
        return f"{count(cores)} CPU core{'' if cores == 1 else 's'}"
    return f"{count(number)} {where.get('kind', 'device')}" if number is not None else ""


def part(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object under a key; an empty one where there is something else."""
    part = record.get(key)
    return part if isinstance(part, Mapping) else {}


def known_number(record: Mapping[str, Any], key: str) -> float | None:
    """The finite number under a key, if there is one."""
    value = number(record, key)
    return value if math.isfinite(value) else None
