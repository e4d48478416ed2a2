"""RUN/compression.json: what the last archive came to, for the report page.

Beside the figures of `Compression.to_dict`:

    step, time    of the checkpoint; when that was, in Unix seconds
    compared      each classical compressor's name, compressed_bytes, original_bytes, seconds
    at            [first position, bits, tokens, bytes] of each range of positions in the window
    passage       [text, bits, whether a lane begins with it] of the first tokens; empty where it
                  was not asked for
"""

import contextlib
import json
import math
import time
from dataclasses import asdict
from typing import Any

from llmjax.compression.costs import PARTS
from llmjax.compression.summary import Compression
from llmjax.run.folder import Run
from llmjax.storage.writing import write_atomically


def record(run: Run, step: int, found: Compression) -> None:
    """Writes what an archive came to; a run folder that is only read stays as it is."""
    costs = found.costs
    plain = {
        **{name: _finite(value) for name, value in found.to_dict().items()},
        "step": step,
        "time": time.time(),
        "compared": [asdict(one) for one in found.baselines],
        "at": [[_first(k), *one] for k, one in sorted(costs.sums.items())],
        "passage": [list(piece) for piece in costs.passage],
    }
    with contextlib.suppress(OSError):
        write_atomically(run.compression, json.dumps(plain) + "\n")


def _finite(value: Any) -> Any:
    """What is no finite number becomes None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _first(part: int) -> int:
    """The first position of a part of an octave."""
    return math.ceil(2 ** (part / PARTS)) - 1
