"""Where an assistant's turn stands in a rendered conversation.

A turn is all that the model writes by itself: what follows the generation prompt, up to and with
the tokens that end the turn. Where a template renders the messages before a turn differently once
it is there, so that the prompt does not tell where the turn begins, its content is marked with
characters that occur nowhere else, rendered again, and looked for; a rendering counts only if it is
the plain one but for the marks.
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
"""(messages, whether a generation prompt follows) -> text."""
PROBE = [{"role": "user", "content": "a"}]
STEPS = 16
"""How many places are tried for where a template begins to write a content of which it drops the
beginning."""


SAME_END = 8
"""How many last characters of a prompt tell that a text continues it."""


class Turn(NamedTuple):
    """A turn: [first, end) of the text that ends with it."""

    text: str
    first: int
    end: int


class Marks(NamedTuple):
    """Places in a text; None where they are not known.

    Attributes:
      before: where the content of the message before the turn ends; 0 if there is none.
      first: where the turn's content begins.
      end: where it ends.
    """

    before: int | None = None
    first: int | None = None
    end: int | None = None


class Turns:
    """Finds turns in one template's renderings."""

    def __init__(self, render: Render, ends: Sequence[str]):
        """Args:
        render: of the template; raises UserError where it refuses messages.
        ends: special tokens.
        """
        self._render, self._ends = render, tuple(ends)
        marks = "|".join(map(re.escape, sorted(self._ends, key=len, reverse=True)))
        self._special = re.compile(marks or r"(?!)")

    def find(self, messages: Sequence[Message], turn: int) -> Turn:
        """The turn of a number.

        Raises:
          UserError: the template refuses the messages, or where the turn begins cannot be told.
        """
        upto = list(messages[: turn + 1])
        text = self._render(upto, False)
        require_calls(upto, turn, text)
        marks = _Marks(self._render, upto, text)
        first = self._first(upto, text, marks)
        end = self._end(upto, text, first, marks)
        require_calls(upto, turn, text[first:end])
        return Turn(text, first, end)

    @cached_property
    def header(self) -> str:
        """The generation prompt after a user's message; empty where there is none."""
        try:
            plain, asked = (self._render(PROBE, prompt) for prompt in (False, True))
        except UserError:
            return ""
        return asked.removeprefix(plain) if asked.startswith(plain) else ""

    def _first(self, upto: Sequence[Message], text: str, marks: "_Marks") -> int:
        try:
            prompt = self._render(upto[:-1], True)
        except UserError:  # such as of no messages at all, or of an answer to an answer
            prompt = None
        header = self.header
        if prompt is not None and text.startswith(prompt):
            first = len(prompt)
            # Some templates give no generation prompt where an answer follows an answer.
            if header and text.startswith(header, first):
                content = marks.found.first
                if content is None or first + len(header) <= content:
                    return first + len(header)
            return first
        before, content, _ = marks.found
        if header and before is not None:
            at = text.find(header, before, content)
            if at >= 0:
                return at + len(header)
        if content is not None:
            return _after(prompt or "", text, content)
        said = text_of(upto[-1].get("content")).strip()
        if said and text.count(said) == 1:
            return text.index(said)
        reason = f"does not tell what of message {len(upto)} the assistant says"
        fix = "put {% generation %} and {% endgeneration %} around that in chat_template.jinja"
        raise UserError("the chat template", reason, fix)

    def _end(self, upto: Sequence[Message], text: str, first: int, marks: "_Marks") -> int:
        # White space behind the token that ends a turn is the template's, not the assistant's.
        end = len(text.rstrip())
        end = end if text[:end].endswith(self._ends) else len(text)
        if len(self._special.findall(text, first)) < 2:
            return end
        # Some templates end a conversation, not only its last turn, with a special token.
        try:
            longer = self._render([*upto, *PROBE], False)
        except UserError:
            return end
        shared = _shared(text, longer)
        after = max(first, marks.found.end or 0)
        stops = [found.end() for found in self._special.finditer(text, after, shared)]
        if not stops or self._special.sub("", text[stops[-1] :]).strip():
            return end
        return stops[-1]


def require_calls(messages: Sequence[Message], turn: int, text: str) -> None:
    """Raises UserError where a text lacks the name of a function that a message calls."""
    for name in (call["name"] for call in calls_of(messages[turn])):
        if name not in text and json.dumps(name)[1:-1] not in text:
            reason = f"leaves out the tool calls of message {turn + 1}"
            raise UserError("the chat template", reason, "use a model whose template has tools")


class _Marks:
    """The marks of a conversation's last message, found when they are needed."""

    def __init__(self, render: Render, messages: Sequence[Message], text: str):
        self._render, self._messages, self._text = render, messages, text
        used = set(text).union(*(text_of(one.get("content")) for one in messages))
        free = (chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in used)
        self._before, self._begin, self._stop = (next(free) for _ in range(3))

    @cached_property
    def found(self) -> Marks:
        """Those that can be found."""
        partial = Marks(before=0) if len(self._messages) == 1 else Marks()
        said = self._messages[-1].get("content")
        if not text_of(said).strip():
            return partial._replace(before=self._places(None, before=True).before)
        # White space around the content is part of the turn unless the template drops it.
        blank = len(said) - len(said.lstrip()) if isinstance(said, str) else 0
        for start, before in itertools.product(sorted({0, blank}), (True, False)):
            found = self._places(start, before=before)
            if found.end is not None:
                break
        else:
            found = self._places(None, before=True)
        if found.first is None and found.end is not None and isinstance(said, str):
            found = found._replace(first=self._sought(said.rstrip(), found.end))
        return found

    def _sought(self, said: str, end: int) -> int | None:
        """Where the part of a content begins that a template leaves of it."""
        start = len(said) - _shared(self._text[:end][::-1], said[::-1])
        for place in range(start, min(len(said), start + STEPS)):
            first = self._places(place, before=False).first
            if first is not None:
                return first
        return None

    def _places(self, start: int | None, *, before: bool) -> Marks:
        """The places in the plain text of marks: in the last message's content before character
        `start` (None: no such mark) and at its end."""
        messages = list(self._messages)
        begin = "" if start is None else self._begin
        messages[-1] = _marked(messages[-1], begin, self._stop, start or 0)
        alone = len(messages) == 1
        if before and not alone:
            messages[-2] = _marked(messages[-2], "", self._before, 0)
        try:
            text = self._render(messages, False)
        except UserError:
            return Marks()
        marks = (self._before, self._begin, self._stop)
        without = str.maketrans("", "", "".join(marks))
        if text.translate(without) != self._text:
            return Marks()
        places = [
            len(text[: text.index(mark)].translate(without)) if text.count(mark) == 1 else None
            for mark in marks
        ]
        first, end = places[1], places[2]
        if first is not None and end is not None and first > end:  # written in another order
            return Marks()
        return Marks(0 if alone else places[0], first, end)


def _after(prompt: str, text: str, content: int) -> int:
    """Where a content's turn begins: with the white space before it that is not the prompt's, where
    what stands before that is how the prompt ends; else at `content`."""
    before, given = text[:content].rstrip(), prompt.rstrip()
    blank = text[len(before) : content]
    if not given or not before.endswith(given[-SAME_END:]):
        return content
    return len(before) + _shared(blank, prompt[len(given) :])


def _marked(message: Message, begin: str, stop: str, start: int) -> Message:
    """The message with marks in its content: before character `start` (of a list of parts: at its
    beginning), and at its end before white space; see `_Marks`."""
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


def _shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
