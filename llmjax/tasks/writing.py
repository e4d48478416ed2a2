"""Text that a model writes for a task."""

from collections.abc import Sequence

from jax.sharding import Mesh

from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.decoding.completions import stream_completions
from llmjax.decoding.config import DecodingConfig
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.tasks.task import Write, body


def writer(
    model: Model, params: Params, tokenizer: Tokenizer, mesh: Mesh | None, batch_size: int = 32
) -> Write:
    """Greedy, or the best of several beams.

    Args:
      model: one with a decoder.
      params: a network's parameters.
      tokenizer: its own.
      mesh: where the parameters live; None for one device.
      batch_size: texts at once.
    """

    def write(prompts: Sequence[Sequence[int]], most: int, beams: int) -> list[str]:
        config = DecodingConfig(
            max_new_tokens=most,
            temperature=0.0,
            beams=beams,
            batch_size=batch_size * beams,
        )
        texts = [""] * len(prompts)
        pieces = stream_completions(model, body(params), tokenizer, prompts, config, mesh)
        for piece in pieces:
            texts[piece.row] += piece.text
        return texts

    return write
