"""Multiple-choice questions: out of tables, and as tokens."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from llmjax.data.tables.table import Row, list_at
from llmjax.errors import UserError
from llmjax.inference.language_model import LanguageModel
from llmjax.scoring.continuations import Pair
from llmjax.storage.json_documents import RECORD, parse_json

NUMBER = re.compile("[0-9]{1,9}")


class Question(NamedTuple):
    """One row of the data.

    Attributes:
      place: where it stands, for messages.
      text: what stands before each choice.
      choices: texts, at least two.
      answer: which of them is right; None where that is not told.
    """

    place: str
    text: str
    choices: tuple[str, ...]
    answer: int | None


def pairs_of(
    lm: LanguageModel, questions: Sequence[Question], texts: Sequence[str], delimiter: str
) -> list[Pair]:
    """(tokens before a choice, the choice's tokens) of every choice of every question."""
    tokenizer, limit = lm.tokenizer, lm.model.config.max_length
    heads, tails = list[str](), list[str]()
    for question, text in zip(questions, texts, strict=True):
        # Blanks at a prompt's end belong to the word that follows: tokens begin with them.
        kept = text.rstrip()
        heads += [kept] * len(question.choices)
        tails += [text[len(kept) :] + delimiter + choice for choice in question.choices]
    encoded = tokenizer.encode_batch(heads)
    pairs: list[Pair]
    if lm.model.config.is_encoder_decoder:
        answers = tokenizer.encode_batch(tails)
        pairs = [(tokenizer.wrap(a)[0], b) for a, b in zip(encoded, answers, strict=True)]
    else:
        both = tokenizer.encode_batch([a + b for a, b in zip(heads, tails, strict=True)])
        before = tokenizer.prefix
        pairs = [
            ([*before, *head] or [tokenizer.bos_id], whole[len(head) :])
            for head, whole in zip(encoded, both, strict=True)
        ]
    places = (f"{one.place}, choice {n}" for one in questions for n in range(len(one.choices)))
    for place, (_, tail) in zip(places, pairs, strict=True):
        if not tail:
            raise UserError(place, "adds no token to its question", "mend the choice")
        if len(tail) > limit:
            raise UserError(place, f"has {len(tail)} tokens, the model's context is {limit}")
    return pairs


def read_question(row: Row) -> Question:
    column = "context" if "context" in row.values else "question"
    text = row.values.get(column)
    if not isinstance(text, str):
        fix = 'give each line a "question" or "context", and "choices"'
        raise UserError(row.place, f"has no text {column!r}", fix)
    choices = tuple(_text(row, choice) for choice in _list(row))
    if len(choices) < 2:
        raise UserError(row.place, f"has {len(choices)} choices", "give at least two")
    return Question(row.place, text, choices, _answer(row, choices))


def _list(row: Row) -> list[Any]:
    """The choices, also where a table spells them in JSON."""
    value = row.values.get("choices")
    if isinstance(value, str) and value.lstrip().startswith("["):
        where = f"{row.place}, column 'choices'"
        choices = parse_json(value, where, limits=RECORD, fix="mend the line")
        row = row._replace(values=row.values | {"choices": choices})
    return list_at(row, "choices", ",")


def _text(row: Row, choice: Any) -> str:
    if isinstance(choice, int | float) and not isinstance(choice, bool):
        return str(choice)
    if not isinstance(choice, str) or not choice:
        raise UserError(
            row.place, f"has a choice that is no text: {repr(choice)[:60]}", "mend the line"
        )
    return choice


def _answer(row: Row, choices: Sequence[str]) -> int | None:
    answer = row.values.get("answer")
    if answer is None or answer == "":
        return None
    if isinstance(answer, str) and answer in choices:
        return choices.index(answer)
    if isinstance(answer, str) and NUMBER.fullmatch(answer):
        answer = int(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    fix = f"give its text, or its number from 0 to {len(choices) - 1}"
    raise UserError(
        row.place, f"has the answer {repr(answer)[:60]}, which is none of its choices", fix
    )
