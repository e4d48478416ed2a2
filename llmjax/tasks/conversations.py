"""Conversations as tokens, with the spans of the assistant's turns."""

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
"""The template for tokenizers without one: each message after a line with its role, the assistant's
ended by the end-of-text token; tools and tool calls as JSON."""


class EncodedChat(NamedTuple):
    """A tokenized conversation.

    Attributes:
      tokens: of the whole conversation.
      spans: [first, end) of the assistant's turns, the end-of-turn token included.
    """

    tokens: list[int]
    spans: list[tuple[int, int]]

    def fitted(self, length: int) -> "EncodedChat":
        """Truncate to a row: keep the start, or the end if no assistant turn begins in the start.
        Returns itself if it fits."""
        most = length + 1  # the last token is only a target
        if len(self.tokens) <= most:
            return self
        starts_early = any(first < most for first, _ in self.spans)
        start = 0 if starts_early else len(self.tokens) - most
        spans = [(max(first - start, 0), min(end - start, most)) for first, end in self.spans]
        return EncodedChat(self.tokens[start : start + most], [(a, b) for a, b in spans if a < b])


class ChatEncoder:
    """Encodes conversations with a chat template; use it as a context manager."""

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
        """Encode the messages and the generation prompt.

        Raises:
          UserError: the template rejects the messages.
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
        """Encode a conversation and locate the assistant's turns.

        A turn is what the template puts in {% generation %} blocks. Without such blocks it is what
        the model would generate: the text after the generation prompt, through the end-of-turn
        token (see `turns`). Where a template renders earlier messages differently once later ones
        follow, each turn becomes a separate conversation that ends with it.

        Args:
          messages: see `messages_at`.
          context: the template's other inputs.
          last: mark only the last turn.

        Raises:
          UserError: the template rejects the messages, or a turn cannot be located.
        """
        messages = self._begin(messages, context)
        turns = [n for n, message in enumerate(messages) if message["role"] == ASSISTANT]
        turns = turns[-1:] if last else turns
        if not turns:
            return []
        if self._template.has_generation_blocks:
            chat, text = self._generated(messages, turns[0] if last else 0)
            for turn in turns:
                require_calls(messages, turn, text)
            return [chat]
        full_text = self._text(messages, False)
        located = [self._turns.find(messages, turn) for turn in turns]
        if all(full_text.startswith(text[:end]) for text, _, end in located):
            return [self._cut(full_text, [(first, end) for _, first, end in located])]
        return [self._cut(text[:end], [(first, end)]) for text, first, end in located]

    def _begin(self, messages: Sequence[Message], context: Context) -> list[Message]:
        """Convert messages to the form that the template reads; fix context and time for all
        renderings until the next call."""
        self._context, self._now = context, time.time()
        if context.tools and not self._template.mentions("tools") and not self._warned:
            log.warning("the chat template does not use tools: they are ignored")
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
        """Whether the template renders a list of parts as text, not as a Python list."""
        probe = "parts"
        part = {"role": "user", "content": [{"type": "text", "text": probe}]}
        try:
            text = self._text([part], False)
        except UserError:
            return False
        return probe in text and f"'{probe}'" not in text

    def _wants_objects(self, messages: Sequence[Message]) -> bool:
        """Whether JSON-encoded tool call arguments must be decoded because the template rejects
        them or would encode them twice."""
        encoded = text_arguments(messages)
        if not encoded:
            return False
        try:
            text = self._text(messages, False)
        except UserError:
            return True
        return any(
            json.dumps(arguments, ensure_ascii=ascii_only) in text
            for arguments in encoded
            for ascii_only in (True, False)
        )

    def _generated(self, messages: Sequence[Message], turn: int) -> tuple[EncodedChat, str]:
        """Encode with the template's {% generation %} blocks from a turn on as spans; also return
        the text in them."""
        text, spans = self._blocks(messages)
        if turn:
            try:
                before = len(self._blocks(messages[:turn])[1])
            except UserError:
                before = len(spans)
            spans = spans[before:] or spans[-1:]
        if not spans:
            reason = "has {% generation %} blocks, but none around an assistant turn"
            raise UserError("the chat template", reason, "put them around all answers")
        return self._cut(text, spans), "".join(text[first:end] for first, end in spans)

    def _blocks(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        return self._template.render_spans(messages, context=self._context, now=self._now)

    def _cut(self, text: str, spans: Sequence[tuple[int, int]]) -> EncodedChat:
        """Tokenize a text so that, where possible, no token crosses a span boundary."""
        tokens: list[int] = []
        token_spans, start, encode = [], 0, self._tokenizer.encode_marked
        for first, end in [*spans, (len(text), len(text))]:
            edges = []
            for stop in (first, end):
                joint = encode(text[:stop])
                if joint[: len(tokens)] == tokens:
                    tokens = joint
                else:
                    tokens += encode(text[start:stop])
                start = stop
                edges.append(len(tokens))
            token_spans.append((edges[0], edges[1]))
        return EncodedChat(tokens, token_spans[:-1])


@contextmanager
def naming_row(row: Row) -> Iterator[None]:
    """Add the row to a UserError raised inside."""
    try:
        yield
    except UserError as error:
        fix = "fix or remove the row" + (f", or {error.fix}" if error.fix else "")
        raise UserError(f"{row.place}: {error.thing}", error.reason, fix) from error
