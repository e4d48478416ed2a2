"""How an input is cut into lanes and windows, where the user does not say."""

import os
from dataclasses import dataclass

import jax

from llmjax.compression.frames import FRAME
from llmjax.compression.lanes import MOST_LANES, Shape
from llmjax.compression.room import window_bytes
from llmjax.errors import UserError
from llmjax.inference.language_model import LanguageModel
from llmjax.scoring.documents import window_sizes

CONTEXT = 512
"""Tokens of a window where the model allows more. Twice as many cost a CPU half of its speed, as
each step reads all that a window remembers, and save a hundredth of the archive."""

OVERLAP = 128
"""Tokens that a window reads again; half a context where that is less. What lies further back than
these says little: SmolLM2-135M takes 3.55 bits for a token with 128 to 256 before it, 3.52 with 256
to 512 (Python's language reference)."""

LANE = 1280
"""Tokens of a lane, about, or three contexts where these are fewer: each lane begins without
knowing anything, which costs 150 bits or so."""

WIDEST = 256
"""Lanes beyond which a step takes as much longer as it does more."""

GROUP = 8
"""Lanes that a thread should have at least."""

CACHE_BYTES = 3 << 30
"""What lanes may remember, in bytes."""


@dataclass(frozen=True)
class Plan:
    """Which programs an archive needs.

    Attributes:
      shape: lanes and windows.
      windows: whether a lane may come to a second window.
    """

    shape: Shape
    windows: bool


def make_plan(
    lm: LanguageModel,
    tokens: int,
    size: int,
    lanes: int | None = None,
    context: int | None = None,
    stride: int | None = None,
) -> Plan:
    """Lanes as long as `LANE` says.

    Args:
      lm: the model.
      tokens: of the first frame.
      size: bytes of the whole input.
      lanes, context, stride: what the user asks for; None: chosen here.

    Raises:
      UserError: they do not suit the model.
    """
    wanted = min(lm.context, CONTEXT) if context is None else context
    if stride is None and wanted > 0:
        stride = wanted - min(OVERLAP, wanted // 2)
    wanted, step = window_sizes(lm.model.config, wanted, stride)
    alone = size <= FRAME
    # What the first frame has of text says little of the rest.
    tokens = tokens if alone else max(tokens, FRAME // 4)
    if lanes is None:
        most = max(1, min(WIDEST, CACHE_BYTES // window_bytes(lm.model.config, wanted)))
        lanes = _rounded(min(most, max(1, round(tokens / min(LANE, 3 * wanted)))))
    if not 1 <= lanes <= MOST_LANES:
        raise UserError(f"lanes {lanes}", f"are not from 1 to {MOST_LANES}")
    longest, groups = -(-tokens // lanes), _groups(lanes)
    if alone and context is None and longest <= min(lm.context, 1.25 * wanted):
        # One window holds a lane, or nearly does: no need to read anything twice.
        rounded = min(lm.context, max(64, -(-longest // 64) * 64))
        return Plan(Shape(lanes, rounded, max(1, rounded // 2), groups), longest > rounded)
    return Plan(Shape(lanes, wanted, step, groups), not alone or longest > wanted)


def _rounded(lanes: int) -> int:
    """About as many, in three significant bits, so that inputs of like size share programs."""
    step = 1 << max(0, lanes.bit_length() - 3)
    return (lanes + step // 2) // step * step


def _groups(lanes: int) -> int:
    """As many as a CPU has cores for, of GROUP lanes at least, all of one size; elsewhere one."""
    if jax.default_backend() != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    most = max(1, min(cores or 1, lanes // GROUP))
    return next(groups for groups in range(most, 0, -1) if lanes % groups == 0)
