"""`llmjax chat`."""

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from llmjax.cli.command import Call, Command, Output
from llmjax.cli.terminal import WordWrap, spinner, terminal_width
from llmjax.decoding.completions import Completion
from llmjax.decoding.config import SAMPLING, decoding_problems
from llmjax.errors import UserError
from llmjax.inference.chat import ChatOptions, Conversation, chat, default_options
from llmjax.run.config.fields import flag
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
    run = call.words[0]
    with spinner(f"loading {run}"):
        conversation = chat(run, options=call.options)
    with conversation:
        if not conversation.is_templated:
            _note(
                "this model has no chat template, as base models do not: it may continue your text "
                "rather than answer. Using lines of User: and Assistant:; llmjax train chat "
                f"--init-from {shlex.quote(run)} would teach it to answer"
            )
        if sys.stdin.isatty():
            _note(_sampling(call.options))
        for line in read_messages():
            if line.startswith("/"):
                if not _command(conversation, line):
                    break
            elif line.strip():
                _answer(conversation, line, quiet=call.as_json)
        messages = conversation.messages
    return Output({"run": run, "messages": messages}, "") if call.as_json else None


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
    piece, show, finish = "", *_writer(quiet)
    start, is_stopped = time.monotonic(), False
    try:
        for piece in answer:
            show(piece)
    except KeyboardInterrupt:
        answer.close()
        is_stopped = True
    finish()
    if is_stopped:
        _note("stopped")
    if not quiet and not piece.endswith("\n"):
        print(flush=True)
    if conversation.completion is not None and sys.stdin.isatty():
        _note(_speed(conversation.completion, time.monotonic() - start))


def _writer(quiet: bool) -> tuple[Callable[[str], None], Callable[[], None]]:
    """How to show a piece of an answer, and what to do at its end."""
    if quiet:
        return lambda text: None, lambda: None

    def write(text: str) -> None:
        print(text, end="", flush=True)

    if not sys.stdout.isatty():
        return write, lambda: None
    wrapped = WordWrap(write, terminal_width())
    return wrapped.feed, wrapped.flush


def _sampling(options: ChatOptions) -> str:
    """The sampling in use."""
    values = {name: getattr(options, name) for name in SAMPLING}
    shown = (f"{flag((name,))} {value:g}" for name, value in values.items() if value is not None)
    return "sampling: " + " ".join(shown)


def _speed(completion: Completion, seconds: float) -> str:
    tokens = len(completion.tokens)
    end = {"length": ", ended by --max-new-tokens", "context": ", ended by the full context"}
    return f"[{tokens} tokens, {tokens / seconds:.1f} tokens/s{end.get(completion.finish, '')}]"


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
    defaults=default_options,
    run=run,
    single=("stop",),
    check=decoding_problems,
)
