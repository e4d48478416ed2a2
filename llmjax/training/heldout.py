"""What a model in training can do: by which figure it is judged, and what it writes."""

from typing import Any

from llmjax.decoding.completions import stream_completions
from llmjax.errors import UserError
from llmjax.tasks.task import body
from llmjax.training.lesson import Heldout
from llmjax.training.session import Session


def measured_cost(score: Heldout, metric: str | None) -> float | None:
    """What is to be small of a measurement.

    Raises:
      UserError: it has no such figure.
    """
    try:
        return score.cost(metric)
    except KeyError as error:
        known = ", ".join(["loss", *score.larger_is_better])
        raise UserError(
            f"evaluation.metric {metric}", "is not measured here", f"choose one of {known}"
        ) from error


def write_samples(session: Session, params: Any) -> list[tuple[str, str]]:
    """(prompt, text) of each prompt of the config."""
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
