"""How an input is cut into lanes and windows, where the user does not say."""

import math
from dataclasses import dataclass

from llmjax.compress.frames import FRAME
from llmjax.compress.lanes import Shape
from llmjax.errors import UserError
from llmjax.language_model import LanguageModel
from llmjax.scoring import window_sizes

CONTEXT = 512
"""Tokens of a window where the model allows more. Twice as many cost a CPU half of its speed, as
each step reads all that a window remembers, and save some three per cent of the archive."""

MOST_LANES = 256
CACHE_BYTES = 2 << 30
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
    """Lanes of about three contexts each: every lane begins without knowing anything.

    Args:
      lm: the model.
      tokens: of the first frame.
      size: bytes of the whole input.
      lanes, context, stride: what the user asks for; None: chosen here.

    Raises:
      UserError: they do not suit the model.
    """
    wanted = min(lm.context, CONTEXT) if context is None else context
    wanted, step = window_sizes(lm.model.config, wanted, stride)
    if lanes is None:
        fit = 2 ** round(math.log2(max(1, tokens / (3 * wanted))))
        lanes = max(1, min(fit, MOST_LANES, _power_below(CACHE_BYTES // _window_bytes(lm, wanted))))
    if lanes < 1:
        raise UserError(f"lanes {lanes}", "is not positive")
    longest = -(-tokens // lanes)
    alone = size <= FRAME
    if alone and context is None and longest <= min(lm.context, 1.5 * wanted):
        # One window holds a lane, or nearly does: no need to read anything twice.
        rounded = min(lm.context, max(64, -(-longest // 64) * 64))
        return Plan(Shape(lanes, rounded, max(1, rounded // 2)), longest > rounded)
    return Plan(Shape(lanes, wanted, step), not alone or longest > wanted)


def _window_bytes(lm: LanguageModel, context: int) -> int:
    """Bytes of the keys and values of a window, in float32."""
    shape = lm.model.config
    return 8 * shape.num_decoder_layers * shape.kv_heads * shape.head_width * context


def _power_below(value: int) -> int:
    return 1 << max(0, value.bit_length() - 1)
