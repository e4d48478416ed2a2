"""Messages to text by the model's own chat template (Jinja).

Templates come with models and are untrusted: they are rendered in jinja2's sandbox, in a separate
process whose time, memory and output are bounded.
"""

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.storage.json_documents import JsonLimits, parse_json

Message = Mapping[str, Any]
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Keys under which messages hold reasoning; templates read the first or the second."""
SECONDS = 3.0
"""Limit of a rendering's CPU time; real ones take milliseconds."""
WAITING = 20.0
"""How many times as long a rendering may take on a busy machine."""
START = 60.0
"""Time limit for starting the process, on a busy machine."""
ANSWER = JsonLimits(size=256 << 20, marks=256 << 20, depth=5)
"""Limits of the process's answer: 16 million characters of text, each at most 12 bytes of JSON, and
some spans. The text itself may consist of marks, so as many are allowed."""
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


class Context(NamedTuple):
    """What templates read besides the messages.

    Attributes:
      tools: JSON schemas of functions that the model may call; None without tools.
      documents: objects, such as {"title": ..., "text": ...}, that the model may quote; None
        without documents.
    """

    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None


MESSAGES_ALONE = Context()


def render(
    template: str,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    special_tokens: Mapping[str, str] | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """Renders a conversation.

    Args:
      template: Jinja.
      messages: each with "role" and "content".
      add_generation_prompt: whether the text ends where the model's answer begins.
      special_tokens: bos_token, eos_token and the like, by name.
      tools: JSON schemas of functions that the model may call.

    Raises:
      UserError: the template is invalid, unsafe or too expensive, or rejects the messages.
    """
    with ChatTemplate(template, special_tokens or {}) as renderer:
        context = Context(tools)
        return renderer.render(
            messages, add_generation_prompt=add_generation_prompt, context=context
        )


def special_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """A tokenizer's special tokens under the names that templates use, such as bos_token."""
    names = {token: name for name, token in tokenizer.special_tokens.items()}
    roles = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    by_role = {f"{role}_token": names[token] for role, token in roles.items() if token in names}
    if tokenizer.mask_id is not None:
        by_role["mask_token"] = names[tokenizer.mask_id]
    return by_role


class ChatTemplate:
    """A template and the process that renders it. Use as a context manager, or `close` it."""

    def __init__(
        self, template: str, special_tokens: Mapping[str, str], *, seconds: float = SECONDS
    ):
        """`seconds` is the limit of a rendering's CPU time."""
        self._template, self._special, self._seconds = template, dict(special_tokens), seconds
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ChatTemplate":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def has_generation_blocks(self) -> bool:
        """Whether the template has {% generation %} blocks around what the model writes."""
        return GENERATION.search(self._template) is not None

    def mentions(self, name: str) -> bool:
        """Whether the template may read a variable or key of this name."""
        return name in self._template

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        context: Context = MESSAGES_ALONE,
        now: float | None = None,
    ) -> str:
        """As the function `render`.

        `now` is the time that the template sees, in seconds since the epoch; None: the current one.
        """
        values = self._values(messages, add_generation_prompt, context)
        return str(self._answer({"values": values, "now": now})["text"])

    def render_spans(
        self,
        messages: Sequence[Message],
        *,
        context: Context = MESSAGES_ALONE,
        now: float | None = None,
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text without generation prompt, and the character spans [first, end) of its
        {% generation %} blocks (Transformers' return_assistant_tokens_mask).

        Raises:
          UserError: as `render`.
        """
        values = self._values(messages, False, context)
        answer = self._answer({"values": values, "now": now, "generation": True})
        return str(answer["text"]), [(first, end) for first, end in answer["spans"]]

    def _values(
        self, messages: Sequence[Message], add_generation_prompt: bool, context: Context
    ) -> dict[str, Any]:
        tools, documents = (None if part is None else list(part) for part in context)
        return {
            **self._special,
            "messages": normalize_messages(messages),
            "add_generation_prompt": add_generation_prompt,
            "tools": tools,
            "documents": documents,
        }

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            limits = {"template": self._template, "seconds": self._seconds}
            line = json.dumps({**limits, **request}, default=placeholder)
        except (TypeError, ValueError) as error:  # keys that are not strings, or a cycle
            raise UserError("the messages", f"are not JSON: {error}", "check the row") from error
        answer = self._ask(line.encode() + b"\n")
        if "text" not in answer:
            raise UserError("the chat template", answer["problem"], "fix chat_template.jinja")
        return answer

    def close(self) -> None:
        """Kills the process."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
            child.wait()

    def _ask(self, request: bytes) -> dict[str, Any]:
        try:
            child = self._child or self._start()
            assert child.stdin is not None
            # The child reads the request completely before rendering: this cannot block for long.
            child.stdin.write(request)
            child.stdin.flush()
            return self._read(child, WAITING * self._seconds)
        except (BrokenPipeError, EOFError):
            return {"problem": self._why_it_ended()}
        except TimeoutError:
            self.close()
            return {"problem": self._too_long}
        except BaseException:  # an interrupt: the child's late answer must not be read
            self.close()
            raise

    def _why_it_ended(self) -> str:
        assert self._child is not None
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):  # it lives: its answer was too large
            code = self._child.wait(1)
        self.close()
        ran_out = hasattr(signal, "SIGPROF") and code == -signal.SIGPROF
        return self._too_long if ran_out else "needs too much memory"

    @property
    def _too_long(self) -> str:
        return f"takes longer than {self._seconds:g} seconds"

    def _start(self) -> subprocess.Popen[bytes]:
        child = Path(__file__).with_name("child.py")
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(child)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # keeps Ctrl-C in a conversation from the child
        )
        self._read(self._child, START)
        return self._child

    def _read(self, child: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
        """Reads the child's next answer; raises TimeoutError or EOFError if there is none."""
        assert child.stdout is not None
        end, parts, size = time.monotonic() + seconds, list[bytes](), 0
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while not parts or not parts[-1].endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise TimeoutError
                part = os.read(child.stdout.fileno(), 1 << 16)
                size += len(part)
                if not part or size > ANSWER.size:
                    raise EOFError
                parts.append(part)
        answer: dict[str, Any] = parse_json(
            b"".join(parts), "the chat template's answer", limits=ANSWER
        )
        return answer


def normalize_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Drops keys whose value is None (templates test whether a key is present), and copies
    reasoning to the keys that templates read."""
    result = []
    for message in messages:
        fields = {key: value for key, value in message.items() if value is not None}
        reasoning = next((fields[key] for key in REASONING if key in fields), None)
        if reasoning is not None:
            fields = {"thinking": reasoning, **fields, "reasoning_content": reasoning}
        result.append(fields)
    return result


def placeholder(value: object) -> str:
    """Stands for a value that JSON cannot represent (bytes, dates): its type."""
    return f"<{type(value).__name__}>"
