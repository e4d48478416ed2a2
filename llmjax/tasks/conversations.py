"""Conversations as tokens: which of them the assistant says."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

from llmjax.data.chat_template.template import (
    MESSAGES_ALONE,
    ChatTemplate,
    Context,
    special_tokens,
)
from llmjax.data.tables.table import Row
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.tasks.messages import ASSISTANT, Message, flat, has_parts, text_arguments, with_objects
from llmjax.tasks.turns import Turns, require_calls

log = logging.getLogger(__name__)
PLAIN = (
    "{% if tools %}{{ '<|tools|>\n' + (tools | tojson) + '\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + (message['content'] or '') }}"
    "{% if message['tool_calls'] %}{{ message['tool_calls'] | tojson }}{% endif %}"
    "{{ (eos_token or '') if message['role'] == 'assistant' else '' }}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""How messages become text where the tokenizer has no template: each behind a line with its role,
the assistant's ended by the end of text; tools and calls of them as JSON."""


class EncodedChat(NamedTuple):
    """A conversation as the model reads it.

    Attributes:
      tokens: all of them.
      spans: [first, end) of what the assistant says, the mark that ends it included.
    """

    tokens: list[int]
    spans: list[tuple[int, int]]

    def fitted(self, length: int) -> "EncodedChat":
        """As much as a row takes: the beginning, or where the assistant says nothing in that, the
        end. What fits is returned as it is."""
        most = length + 1  # the last token is predicted, never read
        if len(self.tokens) <= most:
            return self
        silent = not any(first < most for first, _ in self.spans)
        start = len(self.tokens) - most if silent else 0
        spans = [(max(first - start, 0), min(end - start, most)) for first, end in self.spans]
        return EncodedChat(self.tokens[start : start + most], [(a, b) for a, b in spans if a < b])


class ChatEncoder:
    """Encodes conversations by one chat template; use it in a `with`."""

    def __init__(self, tokenizer: Tokenizer, template: str):
        self._tokenizer = tokenizer
        self._template = ChatTemplate(template, special_tokens(tokenizer))
        self._context, self._now, self._warned = MESSAGES_ALONE, time.time(), False
        self._turns = Turns(self._text, tuple(tokenizer.special_tokens))

    def __enter__(self) -> "ChatEncoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._template.close()

    def prompt(self, messages: Sequence[Message], context: Context = MESSAGES_ALONE) -> list[int]:
        """What the model reads before it answers.

        Raises:
          UserError: the template refuses the messages.
        """
        text = self._text(self._begin(messages, context), True)
        return self._tokenizer.encode_marked(text)

    def encode(
        self,
        messages: Sequence[Message],
        context: Context = MESSAGES_ALONE,
        *,
        last: bool = False,
    ) -> list[EncodedChat]:
        """The conversation, with what the assistant says in it.

        What a template surrounds with {% generation %} is what the assistant says. Without such
        blocks it is what the model would write by itself: all that follows the generation prompt,
        up to and with the token that ends the turn (see `turns`). Some templates change earlier
        messages when later ones come: then each answer makes a conversation of its own, that ends
        with it.

        Args:
          messages: see `messages_at`.
          context: what the template reads beside them.
          last: of the answers, only the last counts.

        Raises:
          UserError: the template refuses the messages, or where an answer stands cannot be told.
        """
        messages = self._begin(messages, context)
        turns = [n for n, message in enumerate(messages) if message["role"] == ASSISTANT]
        turns = turns[-1:] if last else turns
        if not turns:
            return []
        if self._template.marks_generation:
            chat, text = self._generated(messages, turns[0] if last else 0)
            for turn in turns:
                require_calls(messages, turn, text)
            return [chat]
        whole = self._text(messages, False)
        located = [self._turns.find(messages, turn) for turn in turns]
        if all(whole.startswith(text[:end]) for text, _, end in located):
            return [self._cut(whole, [(first, end) for _, first, end in located])]
        return [self._cut(text[:end], [(first, end)]) for text, first, end in located]

    def _begin(self, messages: Sequence[Message], context: Context) -> list[Message]:
        """The messages as this template reads them; all renderings until the next call are of this
        context and of one time."""
        self._context, self._now = context, time.time()
        if context.tools and not self._template.mentions("tools") and not self._warned:
            log.warning("the chat template reads no tools: they are left out")
            self._warned = True
        if has_parts(messages) and not self._reads_parts:
            messages = flat(messages)
        return with_objects(messages) if self._wants_objects(messages) else list(messages)

    def _text(self, messages: Sequence[Message], prompt: bool) -> str:
        return self._template.render(
            messages, add_generation_prompt=prompt, context=self._context, now=self._now
        )

    @cached_property
    def _reads_parts(self) -> bool:
        """Whether the template makes text of a list of parts, and not Python's form of a list."""
        said = "parts"
        part = {"role": "user", "content": [{"type": "text", "text": said}]}
        try:
            text = self._text([part], False)
        except UserError:
            return False
        return said in text and f"'{said}'" not in text

    def _wants_objects(self, messages: Sequence[Message]) -> bool:
        """Whether arguments of tool calls that are JSON texts must become objects, for the template
        refuses them or would quote them once more."""
        texts = text_arguments(messages)
        if not texts:
            return False
        try:
            text = self._text(messages, False)
        except UserError:
            return True
        quoted = (json.dumps(one, ensure_ascii=way) for one in texts for way in (True, False))
        return any(one in text for one in quoted)

    def _generated(self, messages: Sequence[Message], turn: int) -> tuple[EncodedChat, str]:
        """With what stands in the template's {% generation %} blocks from a turn on; and the text
        in them."""
        text, spans = self._blocks(messages)
        if turn:
            try:
                before = len(self._blocks(messages[:turn])[1])
            except UserError:
                before = len(spans)
            spans = spans[before:] or spans[-1:]
        if not spans:
            reason = "has {% generation %} blocks around nothing that the assistant says"
            raise UserError("the chat template", reason, "put them around all answers")
        return self._cut(text, spans), "".join(text[first:end] for first, end in spans)

    def _blocks(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        return self._template.generated(messages, context=self._context, now=self._now)

    def _cut(self, text: str, spans: Sequence[tuple[int, int]]) -> EncodedChat:
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
        return EncodedChat(tokens, found[:-1])


@contextmanager
def naming_row(row: Row) -> Iterator[None]:
    """Says of which row a template refuses the messages."""
    try:
        yield
    except UserError as error:
        fix = "fix or remove the row" + (f", or {error.fix}" if error.fix else "")
        raise UserError(f"{row.place}: {error.thing}", error.reason, fix) from error
