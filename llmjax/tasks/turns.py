"""Locates an assistant's turn in a rendered conversation.

A turn is the text that the model generates: from the end of the generation prompt through the
end-of-turn token. Some templates render the earlier messages differently once the turn follows, so
that the prompt is no prefix of the text. Then the turn's content is marked with unused characters
and rendered again; the marks are valid only if the text is otherwise unchanged.
"""

import itertools
import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

from llmjax.errors import UserError
from llmjax.tasks.messages import Message, calls_of, has_parts, text_of

Render = Callable[[Sequence[Message], bool], str]
"""(messages, whether to add a generation prompt) -> text."""
PROBE = [{"role": "user", "content": "a"}]
STEPS = 16
"""Start positions tried in a content whose beginning the template drops."""
SAME_END = 8
"""Final characters of a prompt by which its end is recognized in a text."""


class Turn(NamedTuple):
    """A turn: the text that ends with it, and its range [first, end)."""

    text: str
    first: int
    end: int


class Marks(NamedTuple):
    """Positions in a text; None if unknown.

    Attributes:
      before: end of the previous message's content; 0 without a previous message.
      first: start of the turn's content.
      end: end of the turn's content.
    """

    before: int | None = None
    first: int | None = None
    end: int | None = None


class Turns:
    """Locates turns in the renderings of one template."""

    def __init__(self, render: Render, ends: Sequence[str]):
        """Args:
        render: renders the template; raises UserError if it rejects the messages.
        ends: special tokens.
        """
        self._render, self._ends = render, tuple(ends)
        marks = "|".join(map(re.escape, sorted(self._ends, key=len, reverse=True)))
        self._special = re.compile(marks or r"(?!)")

    def find(self, messages: Sequence[Message], turn: int) -> Turn:
        """Locate message number `turn`.

        Raises:
          UserError: the template rejects the messages, or the start of the turn is ambiguous.
        """
        messages = messages[: turn + 1]
        text = self._render(messages, False)
        require_calls(messages, turn, text)
        markers = _Markers(self._render, messages, text)
        first = self._first(messages, text, markers)
        end = self._end(messages, text, first, markers)
        require_calls(messages, turn, text[first:end])
        return Turn(text, first, end)

    @cached_property
    def header(self) -> str:
        """The generation prompt after a user's message; empty if there is none."""
        try:
            plain, prompted = (self._render(PROBE, prompt) for prompt in (False, True))
        except UserError:
            return ""
        return prompted.removeprefix(plain) if prompted.startswith(plain) else ""

    def _first(self, messages: Sequence[Message], text: str, markers: "_Markers") -> int:
        try:
            prompt = self._render(messages[:-1], True)
        except UserError:  # such as of no messages at all, or of an answer to an answer
            prompt = None
        header = self.header
        if prompt is not None and text.startswith(prompt):
            first = len(prompt)
            # Some templates add no generation prompt between consecutive answers.
            if header and text.startswith(header, first):
                content = markers.marks.first
                if content is None or first + len(header) <= content:
                    return first + len(header)
            return first
        before, content, _ = markers.marks
        if header and before is not None:
            start = text.find(header, before, content)
            if start >= 0:
                return start + len(header)
        if content is not None:
            return _after(prompt or "", text, content)
        answer = text_of(messages[-1].get("content")).strip()
        if answer and text.count(answer) == 1:
            return text.index(answer)
        reason = f"leaves open where the assistant's turn begins in message {len(messages)}"
        fix = "mark it with {% generation %} and {% endgeneration %} in chat_template.jinja"
        raise UserError("the chat template", reason, fix)

    def _end(self, messages: Sequence[Message], text: str, first: int, markers: "_Markers") -> int:
        # White space after the end-of-turn token belongs to the template, not to the turn.
        end = len(text.rstrip())
        end = end if text[:end].endswith(self._ends) else len(text)
        if len(self._special.findall(text, first)) < 2:
            return end
        # Some templates end a conversation, not only its last turn, with a special token.
        try:
            longer = self._render([*messages, *PROBE], False)
        except UserError:
            return end
        shared = _shared(text, longer)
        after = max(first, markers.marks.end or 0)
        stops = [match.end() for match in self._special.finditer(text, after, shared)]
        if not stops or self._special.sub("", text[stops[-1] :]).strip():
            return end
        return stops[-1]


def require_calls(messages: Sequence[Message], turn: int, text: str) -> None:
    """Raise UserError if a text lacks the name of a function that a message calls."""
    for name in (call["name"] for call in calls_of(messages[turn])):
        if name not in text and json.dumps(name)[1:-1] not in text:
            reason = f"drops the tool calls of message {turn + 1}"
            raise UserError(
                "the chat template", reason, "use a model whose template supports tools"
            )


class _Markers:
    """Locates the marks of a conversation's last message, on first use."""

    def __init__(self, render: Render, messages: Sequence[Message], text: str):
        self._render, self._messages, self._text = render, messages, text
        used = set(text).union(*(text_of(message.get("content")) for message in messages))
        unused = (chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in used)
        self._before, self._begin, self._stop = (next(unused) for _ in range(3))

    @cached_property
    def marks(self) -> Marks:
        """The marks, as far as they can be located."""
        partial = Marks(before=0) if len(self._messages) == 1 else Marks()
        content = self._messages[-1].get("content")
        if not text_of(content).strip():
            return partial._replace(before=self._locate(None, before=True).before)
        # White space around the content is part of the turn unless the template drops it.
        blank = len(content) - len(content.lstrip()) if isinstance(content, str) else 0
        for start, before in itertools.product(sorted({0, blank}), (True, False)):
            marks = self._locate(start, before=before)
            if marks.end is not None:
                break
        else:
            marks = self._locate(None, before=True)
        if marks.first is None and marks.end is not None and isinstance(content, str):
            marks = marks._replace(first=self._kept_start(content.rstrip(), marks.end))
        return marks

    def _kept_start(self, content: str, end: int) -> int | None:
        """Locate the start of the part of a content that the template keeps."""
        start = len(content) - _shared(self._text[:end][::-1], content[::-1])
        for position in range(start, min(len(content), start + STEPS)):
            first = self._locate(position, before=False).first
            if first is not None:
                return first
        return None

    def _locate(self, start: int | None, *, before: bool) -> Marks:
        """Mark the last message's content before character `start` (None: no start mark) and at its
        end, render, and return the marks' positions in the plain text."""
        messages = list(self._messages)
        begin = "" if start is None else self._begin
        messages[-1] = _marked(messages[-1], begin, self._stop, start or 0)
        is_first = len(messages) == 1
        if before and not is_first:
            messages[-2] = _marked(messages[-2], "", self._before, 0)
        try:
            text = self._render(messages, False)
        except UserError:
            return Marks()
        marks = (self._before, self._begin, self._stop)
        without = str.maketrans("", "", "".join(marks))
        if text.translate(without) != self._text:
            return Marks()
        positions = [
            len(text[: text.index(mark)].translate(without)) if text.count(mark) == 1 else None
            for mark in marks
        ]
        first, end = positions[1], positions[2]
        if first is not None and end is not None and first > end:  # the template reorders
            return Marks()
        return Marks(0 if is_first else positions[0], first, end)


def _after(prompt: str, text: str, content: int) -> int:
    """Return the start of the turn whose content starts at `content`: after the prompt's own white
    space if the text before ends like the prompt, else `content`."""
    before, stripped = text[:content].rstrip(), prompt.rstrip()
    blank = text[len(before) : content]
    if not stripped or not before.endswith(stripped[-SAME_END:]):
        return content
    return len(before) + _shared(blank, prompt[len(stripped) :])


def _marked(message: Message, begin: str, stop: str, start: int) -> Message:
    """Insert marks in a message's content: before character `start` (in a list of parts: at its
    start), and at its end before white space; see `_Markers`."""
    content = message.get("content")
    if isinstance(content, str) and content.strip():
        return {**message, "content": _between(content, begin, stop, start)}
    if isinstance(content, str) or not has_parts([message]):
        return message
    parts = [dict(part) for part in message["content"]]
    filled = [n for n, part in enumerate(parts) if part["text"].strip()]
    for number in {filled[0], filled[-1]} if filled else ():
        marks = (begin if number == filled[0] else "", stop if number == filled[-1] else "")
        parts[number]["text"] = _between(parts[number]["text"], *marks, 0)
    return {**message, "content": parts}


def _between(text: str, begin: str, stop: str, start: int) -> str:
    end = len(text.rstrip())
    return f"{text[:start]}{begin}{text[start:end]}{stop}{text[end:]}"


def _shared(first: str, second: str) -> int:
    """Return the length of the common prefix."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))
