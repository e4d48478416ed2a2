"""`llmjax chat`."""

import sys
from collections.abc import Iterator
from pathlib import Path

from llmjax.cli.command import Call, Command, Output
from llmjax.decoding.config import decoding_problems
from llmjax.errors import UserError
from llmjax.inference.chat import ChatOptions, Conversation, chat
from llmjax.storage.json_documents import json_text
from llmjax.storage.writing import write_atomically

LONGEST_MESSAGE = 1 << 20
"""Characters of a message from standard input."""

HELP = """/reset         start over
/system TEXT   set the system prompt; without TEXT, remove it
/save FILE     write the conversation: JSON if FILE ends in .json, else text
/help          this list
/quit          end (so does Ctrl-D); Ctrl-C stops an answer"""


def run(call: Call[ChatOptions]) -> Output | None:
    """Runs a conversation until the messages end."""
    with chat(call.words[0], options=call.options) as conversation:
        if not conversation.is_templated:
            _note("this model has no chat template; using lines of User: and Assistant:")
        for line in read_messages():
            if line.startswith("/"):
                if not _command(conversation, line):
                    break
            elif line.strip():
                _answer(conversation, line, quiet=call.as_json)
        messages = conversation.messages
    return Output({"run": call.words[0], "messages": messages}, "") if call.as_json else None


def read_messages() -> Iterator[str]:
    """Reads messages from the terminal, with line editing, or from piped standard input."""
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
            if first:  # a byte order mark is not part of the text
                line, first = line.removeprefix("\ufeff"), False
            if len(line) > LONGEST_MESSAGE:
                reason = f"has a line of more than {LONGEST_MESSAGE:,} characters"
                raise UserError("standard input", reason, "a line is a message")
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        reason = f"is not {error.encoding}: {error.reason}"
        raise UserError("standard input", reason, "convert it first") from error


def _answer(conversation: Conversation, text: str, quiet: bool) -> None:
    """One turn; Ctrl-C stops the answer, and keeps what there is of it."""
    try:
        answer = conversation.ask(text)
    except UserError as error:
        _note(str(error))
        return
    if conversation.dropped:
        turns = "turn was" if conversation.dropped == 1 else f"{conversation.dropped} turns were"
        _note(f"the context is full: the oldest {turns} dropped")
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


def _command(conversation: Conversation, line: str) -> bool:
    """Runs a line that begins with /; returns whether the conversation continues."""
    name, _, rest = line.partition(" ")
    match name:
        case "/quit" | "/exit":
            return False
        case "/reset":
            conversation.reset()
            _note("starting over")
        case "/system":
            conversation.system = rest.strip() or None
            _note("system prompt set" if conversation.system else "no system prompt")
        case "/save" if rest.strip():
            _save(conversation, Path(rest.strip()).expanduser())
        case "/help":
            _note(HELP)
        case _:
            _note(f"{line}: no such command\n{HELP}")
    return True


def _save(conversation: Conversation, path: Path) -> None:
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
        _note(f"{len(messages)} messages written to {path}")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


CHAT = Command(
    about="A conversation in the model's chat template, or in lines of User: and Assistant: if it "
    "has none. Messages are read from the terminal or, one a line, from standard input; answers "
    f"are streamed to stdout. {' '.join(HELP.split())}",
    positionals=("RUN",),
    usage="[--system TEXT] [--option value ...]",
    options=ChatOptions,
    run=run,
    single=("stop",),
    check=decoding_problems,
)
