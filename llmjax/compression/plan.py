"""Chooses streams and windows where the user does not, and checks that they fit in memory."""

import os
import resource
from dataclasses import dataclass

import jax

from llmjax.compression.codec import MAX_STREAMS, StreamLayout
from llmjax.compression.frames import FRAME
from llmjax.errors import UserError
from llmjax.inference.language_model import LanguageModel
from llmjax.model.config import ModelConfig
from llmjax.run.environment import cores
from llmjax.scoring.documents import window_sizes
from llmjax.storage.bounded import size_text

CONTEXT = 512
"""Default tokens per window, if the model allows as many. Doubling it halves the speed on a CPU,
because each step reads the whole cache, and saves one percent of the archive."""

OVERLAP = 128
"""Tokens that a window rereads, or half the context if that is less. Context further back adds
little: SmolLM2-135M needs 3.55 bits per token with 128 to 256 tokens of context, 3.52 with 256 to
512 (Python's language reference)."""

STREAM_TOKENS = 1280
"""Target length of a stream in tokens, or three contexts if that is less: each stream starts
without context, which costs about 150 bits."""

MAX_DEFAULT_STREAMS = 256
"""With more streams, the time per step grows in proportion."""

GROUP_STREAMS = 8
"""Minimum streams per thread."""

CACHE_BYTES = 3 << 30
"""Limit for the caches of all streams, in bytes."""

TOKEN_BYTES = 16
"""Bytes that a step needs per stream and vocabulary entry: logits, weights, sums."""


@dataclass(frozen=True)
class StreamPlan:
    """Determines the programs that an archive needs.

    Attributes:
      layout: streams and windows.
      windows: whether a stream may reach a second window.
    """

    layout: StreamLayout
    windows: bool


def plan_streams(
    lm: LanguageModel,
    tokens: int,
    size: int,
    streams: int | None = None,
    context: int | None = None,
    stride: int | None = None,
) -> StreamPlan:
    """Chooses the number of streams so that each is about `STREAM_TOKENS` long.

    Args:
      lm: the model.
      tokens: tokens of the first frame.
      size: bytes of the input.
      streams, context, stride: set by the user; None: chosen here.

    Raises:
      UserError: they do not suit the model.
    """
    window = min(lm.context, CONTEXT) if context is None else context
    if stride is None and window > 0:
        stride = window - min(OVERLAP, window // 2)
    window, stride = window_sizes(lm.model.config, window, stride)
    single_frame = size <= FRAME
    # The amount of text in the first frame says little about later ones.
    tokens = tokens if single_frame else max(tokens, FRAME // 4)
    if streams is None:
        fitting = CACHE_BYTES // window_bytes(lm.model.config, window)
        limit = max(1, min(MAX_DEFAULT_STREAMS, fitting))
        streams = _rounded(min(limit, max(1, round(tokens / min(STREAM_TOKENS, 3 * window)))))
    if not 1 <= streams <= MAX_STREAMS:
        raise UserError(f"streams {streams}", f"must be from 1 to {MAX_STREAMS}")
    longest, groups = -(-tokens // streams), default_groups(streams)
    if single_frame and context is None and longest <= min(lm.context, 1.25 * window):
        # A stream (nearly) fits in one window: avoid rereading tokens.
        rounded = min(lm.context, max(64, -(-longest // 64) * 64))
        layout = StreamLayout(streams, rounded, max(1, rounded // 2), groups)
        return StreamPlan(layout, longest > rounded)
    return StreamPlan(
        StreamLayout(streams, window, stride, groups), not single_frame or longest > window
    )


def _rounded(streams: int) -> int:
    """Rounds to three significant bits, so that inputs of similar size share programs."""
    step = 1 << max(0, streams.bit_length() - 3)
    return (streams + step // 2) // step * step


def default_groups(streams: int) -> int:
    """Returns 1, but on a CPU up to one equal group per core, of GROUP_STREAMS or more streams."""
    if jax.default_backend() != "cpu":
        return 1
    limit = max(1, min(cores(), streams // GROUP_STREAMS))
    return next(groups for groups in range(limit, 0, -1) if streams % groups == 0)


def window_bytes(config: ModelConfig, context: int) -> int:
    """Returns the bytes of the cache of a window of `context` tokens, in float32."""
    linear = len(config.linear_layers)
    states = 0 if config.linear is None else linear * config.linear.state_size
    return 4 * ((config.num_decoder_layers - linear) * config.cache_width * context + states)


def check_memory(config: ModelConfig, layout: StreamLayout, memory: int | None = None) -> None:
    """Checks that the caches of all streams and the arrays of a step fit in the device's memory.

    Args:
      config: the model's config.
      layout: streams and context.
      memory: available bytes; None: those of the first device.

    Raises:
      UserError: they do not fit.
    """
    memory = device_memory() if memory is None else memory
    per_stream = window_bytes(config, layout.context) + TOKEN_BYTES * (config.vocab_size or 0)
    if (needed := layout.streams * per_stream) > memory:
        raise UserError(
            f"streams {layout.streams}, context {layout.context}",
            f"need {size_text(needed)}, but the device has {size_text(memory)}",
            "use fewer streams, or the machine where the archive was made",
        )


def device_memory() -> int:
    """Returns the bytes of the first device's memory; on a CPU, what this process may use."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        return int(limit)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    return memory if allowed == resource.RLIM_INFINITY else min(memory, allowed)
