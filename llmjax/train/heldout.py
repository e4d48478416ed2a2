"""What a model in training can do: its score on held-out text, and what it writes."""

from typing import Any

from llmjax.data import Document, heldout_documents
from llmjax.decoding import stream_completions
from llmjax.scoring import DrawnScore, Score, score_documents, score_drawn
from llmjax.train.session import Session


def score_heldout(session: Session, params: Any, whole: bool) -> Score | DrawnScore | None:
    """The score of the held-out documents; None where nothing is held out.

    Args:
      session: the run.
      params: the parameters, on the session's mesh.
      whole: all of the documents, or as many as `evaluation.max_tokens` allows.
    """
    config = session.config.evaluation
    documents = list(heldout_documents(session.corpus))
    if config.max_tokens is not None and not whole:
        documents = _first(documents, config.max_tokens)
    if not documents:
        return None
    longest = min(session.model.config.max_length, session.config.data.length)
    context = config.context or longest
    if not session.is_causal:
        return score_drawn(
            session.model,
            params,
            session.objective,
            documents,
            context=context,
            batch_size=config.batch_size,
            mesh=session.mesh,
        )
    return score_documents(
        session.model,
        params,
        session.tokenizer,
        documents,
        context=context,
        stride=config.stride,
        batch_size=config.batch_size,
        mesh=session.mesh,
    )


def quality(score: Score | DrawnScore) -> dict[str, float | None]:
    """The figure beside the loss: bits per byte, or where most of the text is given, accuracy."""
    if isinstance(score, DrawnScore):
        return {"bits_per_byte": None, "accuracy": score.accuracy}
    return {"bits_per_byte": score.bits_per_byte}


def write_samples(session: Session, params: Any) -> list[tuple[str, str]]:
    """(prompt, text) of each prompt of the config."""
    config = session.config.samples
    texts = [""] * len(config.prompts) * config.decoding.samples
    pieces = stream_completions(
        session.model, params, session.tokenizer, config.prompts, config.decoding, session.mesh
    )
    for piece in pieces:
        texts[piece.row] += piece.text
    return [(config.prompts[i // config.decoding.samples], text) for i, text in enumerate(texts)]


def _first(documents: list[Document], tokens: int) -> list[Document]:
    """The first documents, up to the one that brings them to `tokens`."""
    taken: list[Document] = []
    for document in documents:
        if tokens <= 0:
            break
        taken.append(document)
        tokens -= len(document.tokens)
    return taken
