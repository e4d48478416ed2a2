"""A search for the fastest setting that fits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llmjax.errors import UserError
from llmjax.parallel.chips import GIB
from llmjax.run.config.schema import Config
from llmjax.run.planning.advice import Candidate, candidates
from llmjax.run.planning.plan import Plan, analytic_plan
from llmjax.run.planning.topology import Topology

SHOWN = 10
"""The best settings that are shown."""


@dataclass(frozen=True)
class Found:
    """A setting and its plan."""

    candidate: Candidate
    plan: Plan


@dataclass(frozen=True)
class Search:
    """What a search found."""

    tried: int
    """Settings that divide over the devices."""
    fitting: tuple[Found, ...]
    """Those that fit, the fastest first."""


def search(config: Config, topology: Topology) -> Search:
    """Plans all candidates (analytic), and ranks those that fit by speed.

    Raises:
      UserError: the speed of the devices is not known, or no setting divides over them.
    """
    if topology.chip is None:
        reason = "ranks by speed, and that of these devices is not known"
        raise UserError("--search", reason, "give --topology, such as v5e:16x16 or h100:2x8")
    tried, problem = list[Found](), None
    for candidate in candidates(config, topology):
        try:
            tried.append(Found(candidate, analytic_plan(candidate.applied(config), topology)))
        except UserError as error:
            problem = error
    if not tried:
        fix = f"data.batch_size has to be a multiple of the devices, {topology.devices}, or nearly"
        raise problem or UserError("--search", "no mesh divides the batch over the devices", fix)
    return Search(len(tried), ranked(tried))


def ranked(found: Iterable[Found]) -> tuple[Found, ...]:
    """Those that fit, by tokens per second, the fastest first."""
    fitting = [each for each in found if each.plan.fits]
    return tuple(sorted(fitting, key=lambda each: -(each.plan.tokens_per_second or 0.0)))


def table(config: Config, found: Sequence[Found]) -> list[dict[str, Any]]:
    """The found settings as plain data."""
    return [
        {
            "options": each.candidate.options(config),
            "depth": each.plan.depth,
            "memory": each.plan.needed,
            "tokens_per_second_per_chip": each.plan.tokens_per_chip,
            "mfu": each.plan.mfu,
        }
        for each in found
    ]


def lines(config: Config, result: Search, found: Sequence[Found]) -> list[str]:
    """The result for people."""
    if not result.fitting:
        return [f"none of {result.tried} settings fits; take more or larger devices"]
    rows = [f"{len(result.fitting)} of {result.tried} settings fit; the fastest:"]
    rows.append(f"{'tokens/s/chip':>14}{'MFU':>8}{'memory':>12}  {'depth':10}options of train")
    for each in found[:SHOWN]:
        plan = each.plan
        rows.append(
            f"{plan.tokens_per_chip or 0:>14,.0f}{plan.mfu or 0:>8.1%}"
            f"{plan.needed / GIB:>8.2f} GiB  {plan.depth:10}"
            f"{each.candidate.options(config) or '(as it is)'}"
        )
    return rows
