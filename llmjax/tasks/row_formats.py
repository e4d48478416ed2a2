"""The forms of rows with conversations: messages, ShareGPT, Alpaca, prompts with completions.

Each row's form is recognized by its columns. Columns that a form does not name are ignored.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

from llmjax.data.tables.table import Row, text_at
from llmjax.errors import UserError
from llmjax.tasks.messages import ASSISTANT, SYSTEM, USER, Message, checked, messages_at

SYSTEM_COLUMN = "system"
"""Column of a system prompt, beside ShareGPT's and Alpaca's columns; it may be missing or empty."""


class SourceTarget(NamedTuple):
    """A row as plain text.

    Attributes:
      source: the input text.
      target: the output text; None if the row lacks it.
    """

    source: str
    target: str | None


class RowFormat(ABC):
    """How rows hold conversations. As a string: its name, for messages."""

    @property
    @abstractmethod
    def answers(self) -> str:
        """Where the answers stand, for messages."""

    @abstractmethod
    def messages(self, row: Row) -> list[Message]:
        """Read a row as a conversation; raises UserError."""


@dataclass(frozen=True)
class Messages(RowFormat):
    """A column of messages, of either form."""

    column: str

    @property
    def answers(self) -> str:
        return f"column {self.column!r}"

    def messages(self, row: Row) -> list[Message]:
        return messages_at(row, self.column)

    def __str__(self) -> str:
        return f"messages (column {self.column})"


class ColumnsFormat(RowFormat):
    """A form that is recognized by its columns."""

    name: ClassVar[str]
    """For messages."""
    key: ClassVar[str]
    """The column of what is asked."""
    columns: ClassVar[tuple[str, ...]]
    """All columns of a complete row, the optional ones excepted; the answers' last."""
    optional: ClassVar[tuple[str, ...]] = ()

    @property
    def answers(self) -> str:
        return f"column {self.columns[-1]!r}"

    def __str__(self) -> str:
        return f"{self.name} rows ({', '.join((*self.columns, *self.optional))})"


class ShareGPT(ColumnsFormat):
    """{"conversations": [{"from": "human", "value": ...}, ...]}."""

    name = "ShareGPT"
    key = "conversations"
    columns = ("conversations",)
    optional = (SYSTEM_COLUMN,)

    def messages(self, row: Row) -> list[Message]:
        return [*_system(row), *messages_at(row, self.key)]


class TextFormat(ColumnsFormat):
    """Rows of one question and one answer, which may also be read as plain text."""

    @abstractmethod
    def texts(self, row: Row) -> SourceTarget:
        """Read a row as plain text; raises UserError."""


class Alpaca(TextFormat):
    """{"instruction": ..., "input": ..., "output": ...}; `history` holds earlier pairs."""

    name = "Alpaca"
    key = "instruction"
    columns = ("instruction", "output")
    optional = ("input", SYSTEM_COLUMN, "history")

    def texts(self, row: Row) -> SourceTarget:
        instruction = text_at(row, "instruction")
        has_input = bool(_or_empty(row, "input"))
        source = f"{instruction}\n\n{text_at(row, 'input')}" if has_input else instruction
        return SourceTarget(source, text_at(row, "output") if "output" in row.values else None)

    def messages(self, row: Row) -> list[Message]:
        return [*_system(row), *_history(row), *_exchange(*self.texts(row))]


class PromptCompletion(TextFormat):
    """{"prompt": ..., "completion": ...}, as text or as lists of messages."""

    name = "prompt and completion"
    key = "prompt"
    columns = ("prompt", "completion")

    def texts(self, row: Row) -> SourceTarget:
        has_completion = "completion" in row.values
        completion = text_at(row, "completion") if has_completion else None
        return SourceTarget(text_at(row, "prompt"), completion)

    def messages(self, row: Row) -> list[Message]:
        messages: list[Message] = []
        for column, role in (("prompt", USER), ("completion", ASSISTANT)):
            value = row.values.get(column)
            if isinstance(value, list):
                messages += checked(row, column, value)
            elif column in row.values:
                messages.append({"role": role, "content": text_at(row, column)})
        return messages


_Format = TypeVar("_Format", bound=ColumnsFormat)

FORMATS: tuple[ColumnsFormat, ...] = (ShareGPT(), Alpaca(), PromptCompletion())
"""The forms recognized by their columns."""
TEXT_FORMATS: tuple[TextFormat, ...] = (Alpaca(), PromptCompletion())
COLUMNS = tuple(dict.fromkeys(name for form in FORMATS for name in (*form.columns, *form.optional)))
"""Every column that one of the forms reads."""


def format_of(row: Row, column: str) -> RowFormat:
    """Recognize a row's form: messages if it has the named column, else by its columns.

    Raises:
      UserError: it has the columns of no form, or of several.
    """
    return Messages(column) if column in row.values else _recognized(row, column, FORMATS)


def text_format_of(row: Row, column: str) -> TextFormat | None:
    """Recognize a row of texts by its columns; None if it has the named column.

    Raises:
      UserError: as `format_of`.
    """
    return None if column in row.values else _recognized(row, column, TEXT_FORMATS)


def summary(formats: Sequence[RowFormat]) -> str:
    """Say which forms rows have; empty if all are messages."""
    counts = Counter(map(str, formats))
    if all(isinstance(form, Messages) for form in formats):
        return ""
    if len(counts) == 1:
        return f"read as {next(iter(counts))}"
    return "read as " + ", ".join(f"{name}: {count:,}" for name, count in counts.items())


def _recognized(row: Row, column: str, formats: Sequence[_Format]) -> _Format:
    """Choose the form whose columns the row has; if none is complete, the one whose key it has."""
    names = row.values.keys()
    matching = [form for form in formats if names >= set(form.columns)]
    matching = matching or [form for form in formats if form.key in names]
    if len(matching) == 1:
        return matching[0]
    known = "; ".join(", ".join(form.columns) for form in formats)
    if not matching:
        fix = f"its columns are {', '.join(map(repr, row.values))}; also read are {known}"
        raise UserError(row.place, f"has no column {column!r}", fix)
    both = " and ".join(f"{form.name} ({', '.join(form.columns)})" for form in matching)
    raise UserError(row.place, f"has the columns of {both}", "remove those of all but one")


def _exchange(source: str, target: str | None) -> list[Message]:
    asked = {"role": USER, "content": source}
    return [asked] if target is None else [asked, {"role": ASSISTANT, "content": target}]


def _system(row: Row) -> list[Message]:
    if not _or_empty(row, SYSTEM_COLUMN):
        return []
    return [{"role": SYSTEM, "content": text_at(row, SYSTEM_COLUMN)}]


def _history(row: Row) -> list[Message]:
    """Read earlier exchanges, a list of (instruction, answer)."""
    messages: list[Message] = []
    for number, pair in enumerate(_or_empty(row, "history"), 1):
        texts = pair if isinstance(pair, list | tuple) else ()
        if len(texts) != 2 or not all(isinstance(text, str) and text.strip() for text in texts):
            where = f"{row.place}, column 'history'"
            raise UserError(where, f"item {number} is not a pair of texts", "fix or remove it")
        messages += _exchange(*texts)
    return messages


def _or_empty(row: Row, column: str) -> Any:
    """Return an optional value; "" where it is missing, None or blank."""
    value = row.values.get(column)
    blank = value is None or (isinstance(value, str) and not value.strip())
    return "" if blank else value
