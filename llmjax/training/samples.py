"""Text generated during training."""

from typing import Any

from llmjax.decoding.completions import stream_completions
from llmjax.tasks.task import body
from llmjax.training.session import Session


def write_samples(session: Session, params: Any) -> list[tuple[str, str]]:
    """Generates from the config's prompts: (prompt, text) of each."""
    config = session.config.samples
    texts = [""] * len(config.prompts) * config.decoding.samples
    pieces = stream_completions(
        session.model,
        body(params),
        session.tokenizer,
        config.prompts,
        config.decoding,
        session.mesh,
    )
    for piece in pieces:
        texts[piece.row] += piece.text
    return [(config.prompts[i // config.decoding.samples], text) for i, text in enumerate(texts)]
