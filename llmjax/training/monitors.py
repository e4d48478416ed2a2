"""What watches a run from the side."""

from typing import NamedTuple

from llmjax.run.telemetry.goodput import Goodput
from llmjax.training.stragglers import Stragglers
from llmjax.training.watchdog import Watchdog


class Monitors(NamedTuple):
    """What the run's time is spent on, whether it makes progress, and which process is slow."""

    goodput: Goodput
    watchdog: Watchdog
    stragglers: Stragglers
