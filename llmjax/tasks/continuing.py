"""Texts that are written after others, as segments: what tasks of writing have in common."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.tasks.example import Segment
from llmjax.tasks.task import Setting


class Written(NamedTuple):
    """A text to write after another.

    Attributes:
      segment: what the model reads, with weight on the tokens of the text alone.
      prompt: what it reads before it writes; of an encoder-decoder, the encoder's tokens.
      cut: whether some of either text is left out.
    """

    segment: Segment
    prompt: list[int]
    cut: bool


def after(tokenizer: Tokenizer, before: str, ids: Sequence[int], text: str) -> list[int]:
    """The tokens of `text` where it follows `before`, whose tokens are `ids`.

    They are those that the tokenizer gives both together, where these begin with `ids`; then the
    model's own way of going on is kept.
    """
    both = tokenizer.encode(before + text)
    return both[len(ids) :] if both[: len(ids)] == list(ids) else tokenizer.encode(text)


def written(setting: Setting, before: Sequence[int], text: Sequence[int] | None) -> Written:
    """A text, which its end of text follows, after what stands before it.

    Of what does not fit a row, the text's end goes first while it takes more than half of the row,
    then the beginning of what a decoder reads before it, or the end of what an encoder reads.

    Args:
      setting: where.
      before: tokens without a frame.
      text: tokens; None where it is not known: then nothing has weight.
    """
    if setting.model.is_encoder_decoder:
        return _translated(setting, before, text)
    tokenizer, length = setting.tokenizer, setting.length
    head = [*tokenizer.prefix, *before] or [tokenizer.bos_id]
    if text is None:
        kept = head[-length:]
        nothing = Segment(kept, targets=[0] * len(kept), weights=[0.0] * len(kept))
        return Written(nothing, kept, len(kept) < len(head))
    tail = [*text, tokenizer.eos_id]
    # The last token is told, never read.
    most = max(length + 1 - len(head), (length + 1) // 2)
    kept, tail_kept = head[-(length + 1 - min(most, len(tail))) :], tail[:most]
    both = [*kept, *tail_kept]
    weights = [0.0] * (len(kept) - 1) + [1.0] * len(tail_kept)
    segment = Segment(both[:-1], targets=both[1:], weights=weights)
    return Written(segment, kept, len(both) < len(head) + len(tail))


def _translated(setting: Setting, before: Sequence[int], text: Sequence[int] | None) -> Written:
    tokenizer, length = setting.tokenizer, setting.length
    room = max(1, length - len(tokenizer.wrap([])[0]))
    source = tokenizer.wrap(list(before)[:room])[0] or [tokenizer.eos_id]
    whole = [tokenizer.eos_id] if text is None else [*text, tokenizer.eos_id]
    tail = whole[:length]
    segment = Segment(
        [tokenizer.bos_id, *tail[:-1]],
        targets=tail,
        weights=[0.0 if text is None else 1.0] * len(tail),
        source=source,
    )
    return Written(segment, source, len(before) > room or len(tail) < len(whole))


def marked(ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> Segment:
    """A text of which the tokens of some spans, [first, end) each, are told by those before."""
    told = np.zeros(len(ids), np.float32)
    for first, end in spans:
        told[first:end] = 1
    return Segment(list(ids[:-1]), targets=list(ids[1:]), weights=told[1:].tolist())
