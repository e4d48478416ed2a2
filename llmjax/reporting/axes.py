"""Axes: where values lie on a line, and which of them are labelled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_MULTIPLES: tuple[tuple[float, ...], ...] = (
    (1, 1.5, 2, 3, 4, 5, 6, 8),
    (1, 2, 3, 5),
    (1, 2, 5),
    (1, 3),
    (1,),
)


@dataclass(frozen=True)
class Axis:
    """A range of values on a line; logarithmic where asked (low > 0 then)."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high end."""
        if self.log:
            low, high, value = (math.log(max(v, 1e-300)) for v in (self.low, self.high, value))
        else:
            low, high = self.low, self.high
        return (value - low) / (high - low)

    def ticks(self, most: int) -> list[float]:
        """Round values inside the range, about `most` of them."""
        if not self.log:
            return _linear_ticks(self.low, self.high, most)
        for multiples in _MULTIPLES:
            found = _log_ticks(self.low, self.high, multiples)
            if len(found) <= most:
                return found if len(found) > 2 else _linear_ticks(self.low, self.high, most)
        return found[:: math.ceil(len(found) / most)]


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


def _log_ticks(low: float, high: float, multiples: Sequence[float]) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [float(f"{m}e{d}") for d in decades for m in multiples]
    return [v for v in every if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]


def span(values: Sequence[float], *, log: bool = False, pad: float = 0.06) -> Axis | None:
    """A range that holds all finite values, with a little room; None where there are none."""
    finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    if not finite:
        return None
    low, high = min(finite), max(finite)
    if log:
        room = (high / low) ** pad if high > low else 1.5
        return Axis(low / room, high * room, log=True)
    room = (high - low) * pad or abs(high) * 0.1 or 1.0
    return Axis(low - room, high + room)
