"""`llmjax chat`."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmjax.cli.options import DecodingOptions, ModelOptions
from llmjax.cli.verb import Verb, print_json
from llmjax.errors import UserError

if TYPE_CHECKING:
    from llmjax.inference.chat import Conversation

LONGEST_MESSAGE = 1 << 20
"""Characters of a message from standard input."""

HELP = """/reset         forget all that was said
/system TEXT   what the model is told before all else; without TEXT, nothing
/save FILE     write the conversation: JSON if FILE ends in .json, else text
/help          this list
/quit          end (so does Ctrl-D); Ctrl-C stops an answer"""


@dataclass(frozen=True)
class _Conversation(DecodingOptions):
    """What is said first, and how answers are written."""

    max_new_tokens: int = 512
    """The most tokens of an answer; fewer where it ends or the context is full."""
    system: str | None = None
    """What the model is told before all else."""


@dataclass(frozen=True)
class Options(ModelOptions, _Conversation):
    """Options of chat: those of decoding, and these."""


VERB = Verb(
    usage="llmjax chat RUN [--system TEXT] [--option value ...]",
    about="A conversation by the model's own template; by lines of User: and Assistant: where it "
    "has none. Messages are read from the terminal or, one a line, from standard input; answers "
    f"are written to stdout as they come. {' '.join(HELP.split())}",
    names=("RUN",),
    options=Options(),
    single=("stop",),
)


def main(argv: Sequence[str]) -> int:
    """Converses until the messages end."""
    parsed = VERB.parse(argv)
    if parsed is None:
        return 0
    options, run = parsed.options, parsed.positionals[0]
    decoding = options.decoding()
    from llmjax.inference.chat import chat
    from llmjax.inference.language_model import load
    from llmjax.parallel.compilation import enable_compilation_cache

    enable_compilation_cache()
    lm = load(run, **options.loading())
    with chat(lm, decoding, system=options.system) as conversation:
        if not conversation.is_templated:
            _note("this model has no chat template; speaking in lines of User: and Assistant:")
        as_json = "json" in parsed.flags
        for line in _lines():
            if line.startswith("/"):
                if not _command(conversation, line):
                    break
            elif line.strip():
                _say(conversation, line, quiet=as_json)
        if as_json:
            print_json({"run": run, "messages": conversation.messages})
    return 0


def _lines() -> Iterator[str]:
    """Messages: from the terminal with editing, or from standard input."""
    if not sys.stdin.isatty():
        yield from _piped()
        return
    import readline  # noqa: F401 (gives input() editing and history)

    _note("/help lists commands, Ctrl-D ends")
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            _note("Ctrl-D or /quit ends")


def _piped() -> Iterator[str]:
    first = True
    try:
        while line := sys.stdin.readline(LONGEST_MESSAGE + 1):
            if first:  # a byte order mark is no part of the first message
                line, first = line.removeprefix("\ufeff"), False
            if len(line) > LONGEST_MESSAGE:
                reason = f"has a line of more than {LONGEST_MESSAGE:,} characters"
                raise UserError("standard input", reason, "a line is a message")
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        reason = f"is not {error.encoding}: {error.reason}"
        raise UserError("standard input", reason, "convert it first") from error


def _say(conversation: "Conversation", text: str, quiet: bool) -> None:
    """One turn; Ctrl-C stops the answer, and what came of it stays said."""
    try:
        answer = conversation.ask(text)
    except UserError as error:
        _note(str(error))
        return
    if conversation.dropped:
        turns = "turn was" if conversation.dropped == 1 else f"{conversation.dropped} turns were"
        _note(f"the context is full: the oldest {turns} forgotten")
    piece = ""
    try:
        for piece in answer:
            if not quiet:
                print(piece, end="", flush=True)
    except KeyboardInterrupt:
        answer.close()
        _note("stopped")
    if not quiet and not piece.endswith("\n"):
        print(flush=True)


def _command(conversation: "Conversation", line: str) -> bool:
    """Does what a line that begins with / says; whether the conversation goes on."""
    name, _, rest = line.partition(" ")
    match name:
        case "/quit" | "/exit":
            return False
        case "/reset":
            conversation.reset()
            _note("all forgotten")
        case "/system":
            conversation.system = rest.strip() or None
            _note("so it is told" if conversation.system else "it is told nothing")
        case "/save" if rest.strip():
            _save(conversation, Path(rest.strip()).expanduser())
        case "/help":
            _note(HELP)
        case _:
            _note(f"{line}: no such command\n{HELP}")
    return True


def _save(conversation: "Conversation", path: Path) -> None:
    from llmjax.storage.json_text import json_text
    from llmjax.storage.writing import write_atomically

    messages = conversation.messages
    if path.suffix == ".json":
        text = json_text({"messages": messages}, indent=1) + "\n"
    else:
        text = "\n\n".join(f"{m['role'].title()}: {m['content']}" for m in messages) + "\n"
    try:
        write_atomically(path, text)
    except OSError as error:
        _note(f"{path}: cannot be written: {error.strerror}")
    else:
        _note(f"{len(messages)} messages in {path}")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
