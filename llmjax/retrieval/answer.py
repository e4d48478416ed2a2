"""Answers of a chat run from passages, with numbered sources."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from os import PathLike

from llmjax.inference.chat import ChatOptions, chat, default_options
from llmjax.inference.language_model import LanguageModel, loaded
from llmjax.retrieval.search import Hit

NOTHING_FOUND = "Nothing was found in the documents."
SYSTEM = (
    "Answer the question from the numbered passages alone, in the language of the question. After "
    "each statement name its passages, such as [1] or [2][3]. If the passages do not answer the "
    "question, say that the documents do not tell."
)
"""The system prompt unless there is another."""


def answer(
    run: str | PathLike[str] | LanguageModel,
    question: str,
    hits: Sequence[Hit],
    options: ChatOptions | None = None,
) -> Iterator[str]:
    """Answer a question from passages.

    As many of the first passages are given to the model as fit its context beside the answer.

    Args:
      run: a chat run: its folder, or a loaded model.
      question: in words.
      hits: what a search found; none: the answer is NOTHING_FOUND, and no model is asked.
      options: of chat; None for greedy decoding and the run's other defaults.

    Yields:
      Pieces of the answer, as they are generated.

    Raises:
      UserError: there is no such run, it is not a decoder, or its context is too short for the
        question.
    """
    if not hits:
        yield NOTHING_FOUND
        return
    if options is None:
        options = replace(default_options(run), temperature=0.0, max_new_tokens=256)
    lm = loaded(run, options)
    system = SYSTEM if options.system is None else options.system
    for count in range(len(hits), 0, -1):
        with chat(lm, options=replace(options, system=system)) as conversation:
            text = message(question, hits[:count])
            if not _fits(lm, f"{system}\n{text}", options.max_new_tokens) and count > 1:
                continue
            yield from conversation.ask(text)
            return


def message(question: str, hits: Sequence[Hit]) -> str:
    """What the model is asked: the numbered passages, then the question."""
    passages = [
        f"[{hit.number}] {hit.heading + ': ' if hit.heading else ''}{hit.text}" for hit in hits
    ]
    return "\n\n".join([*passages, f"Question: {question}"])


def _fits(lm: LanguageModel, text: str, new_tokens: int) -> bool:
    """Whether a conversation of this text leaves space for an answer."""
    context = lm.model.config.max_length
    template = 64  # tokens around the messages
    return len(lm.tokenizer.encode(text)) + template + min(new_tokens, context // 2) <= context
