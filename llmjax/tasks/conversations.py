"""Conversations as tokens: which of them the assistant says."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from llmjax.chat_template import ChatTemplate, special_tokens
from llmjax.data import Tokenizer
from llmjax.data.tables import Row
from llmjax.errors import UserError

Message = dict[str, Any]

ASSISTANT = "assistant"
PLAIN = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
    "{{ (eos_token or '') if message['role'] == 'assistant' else '' }}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""How messages are spelt where the tokenizer does not say it: each behind a line with its role,
the assistant's ended by the end of text."""


class Spelt(NamedTuple):
    """A conversation as the model reads it.

    Attributes:
      tokens: all of them.
      spans: [first, end) of what the assistant says, the mark that ends it included.
    """

    tokens: list[int]
    spans: list[tuple[int, int]]


class Speller:
    """Spells conversations in one template; use it in a `with`."""

    def __init__(self, tokenizer: Tokenizer, template: str):
        self._tokenizer = tokenizer
        self._template = ChatTemplate(template, special_tokens(tokenizer))
        self._marks = tuple(tokenizer.special_tokens)

    def __enter__(self) -> "Speller":
        return self

    def __exit__(self, *_: object) -> None:
        self._template.close()

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """What the model reads before it answers.

        Raises:
          UserError: the template refuses the messages.
        """
        text = self._template.render(messages, add_generation_prompt=True)
        return self._tokenizer.encode_marked(text)

    def spell(self, messages: Sequence[Message], *, last: bool = False) -> list[Spelt]:
        """The conversation, with what the assistant says in it.

        What stands before an answer is what the template makes of the messages before it, ready for
        an answer; the answer is what comes on top with it. Some templates change earlier messages
        when later ones come: then each answer makes a conversation of its own, that ends with it.

        Args:
          messages: see `messages_at`.
          last: of the answers, only the last counts.

        Raises:
          UserError: the template refuses the messages.
        """
        turns = [n for n, message in enumerate(messages) if message["role"] == ASSISTANT]
        turns = turns[-1:] if last else turns
        whole = self._template.render(messages, add_generation_prompt=False)
        spans = [(self._answer(messages, turn), turn) for turn in turns]
        if all(whole.startswith(text[:end]) for (text, _, end), _ in spans):
            return [self._cut(whole, [(first, end) for (_, first, end), _ in spans])]
        return [self._cut(text[:end], [(first, end)]) for (text, first, end), _ in spans]

    def _answer(self, messages: Sequence[Message], turn: int) -> tuple[str, int, int]:
        """The text up to an answer, and the span of it that is the answer."""
        before = self._template.render(messages[:turn], add_generation_prompt=True)
        text = self._template.render(messages[: turn + 1], add_generation_prompt=False)
        pairs = enumerate(zip(before, text, strict=False))
        first = next((at for at, (a, b) in pairs if a != b), min(len(before), len(text)))
        # White space behind the mark that ends an answer is the template's, not the assistant's.
        end = len(text.rstrip())
        return text, first, end if text[:end].endswith(self._marks) else len(text)

    def _cut(self, text: str, spans: Sequence[tuple[int, int]]) -> Spelt:
        """Tokens of a text, of which none crosses an end of a span where this can be had."""
        tokens: list[int] = []
        found, at, encode = [], 0, self._tokenizer.encode_marked
        for first, end in [*spans, (len(text), len(text))]:
            edges = []
            for stop in (first, end):
                both = encode(text[:stop])
                if both[: len(tokens)] == tokens:
                    tokens = both
                else:
                    tokens += encode(text[at:stop])
                at = stop
                edges.append(len(tokens))
            found.append((edges[0], edges[1]))
        return Spelt(tokens, found[:-1])


@contextmanager
def spelling(row: Row) -> Iterator[None]:
    """Says of which row a template refuses the messages."""
    try:
        yield
    except UserError as error:
        fix = "mend or remove the row" + (f", or {error.fix}" if error.fix else "")
        raise UserError(f"{row.place}: {error.thing}", error.reason, fix) from error


def messages_at(row: Row, column: str) -> list[Message]:
    """The messages of a column.

    Raises:
      UserError: there is no such column, or it holds no messages.
    """
    if column not in row.values:
        fix = f"its columns are {', '.join(map(repr, row.values))}"
        raise UserError(row.place, f"has no column {column!r}", fix)
    return checked(row, column, row.values[column])


def checked(row: Row, column: str, value: Any) -> list[Message]:
    """The value as messages; UserError where it is no list of them."""
    where, fix = f"{row.place}, column {column!r}", 'give a list of {"role": ..., "content": ...}'
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise UserError(where, "is no list of messages", fix)
    for number, message in enumerate(value, 1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UserError(where, f"message {number} has no role", fix)
        content = message.get("content")
        if not isinstance(content, str):
            raise UserError(where, f"message {number} has no text as its content", fix)
        if not content.strip() and message["role"] == ASSISTANT:
            raise UserError(where, f"message {number}, the assistant's, is empty", "fill it in")
    return [dict(message) for message in value]
