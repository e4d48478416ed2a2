"""Messages as the text that a model was trained on, by the model's own Jinja template.

A template comes with the model, from anyone. It is rendered in jinja2's sandbox, and in a process
of its own with bounded time, memory and output: a loop without end is killed, not waited for.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from llmjax.data.tokenizer import Tokenizer
from llmjax.errors import UserError

SECONDS = 3.0  # for one rendering; a real one takes milliseconds
START = 60.0  # for the process to start, on a busy machine

Message = Mapping[str, Any]


def render(
    template: str,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    special_tokens: Mapping[str, str] | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The text of a conversation.

    Args:
      template: Jinja.
      messages: each with "role" and "content".
      add_generation_prompt: whether the text ends where the model's answer begins.
      special_tokens: bos_token, eos_token and the like, by name.
      tools: JSON schemas of functions that the model may call.

    Raises:
      UserError: the template is wrong, unsafe, takes too long or too much, or refuses the messages.
    """
    with ChatTemplate(template, special_tokens or {}) as one:
        return one.render(messages, add_generation_prompt=add_generation_prompt, tools=tools)


def special_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """The names by which templates know a tokenizer's special tokens."""
    spelt = {token: name for name, token in tokenizer.special_tokens.items()}
    roles = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    found = {f"{role}_token": spelt[token] for role, token in roles.items() if token in spelt}
    if tokenizer.mask_id is not None:
        found["mask_token"] = spelt[tokenizer.mask_id]
    return found


class ChatTemplate:
    """A template with a process that renders it; close it, or use it in a `with`."""

    def __init__(
        self, template: str, special_tokens: Mapping[str, str], *, seconds: float = SECONDS
    ):
        """`seconds`: how long one rendering may take."""
        self._template, self._special, self._seconds = template, dict(special_tokens), seconds
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ChatTemplate":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """As the function `render`."""
        values = {
            **self._special,
            "messages": list(messages),
            "add_generation_prompt": add_generation_prompt,
            "tools": None if tools is None else list(tools),
            "documents": None,
        }
        request = json.dumps({"template": self._template, "values": values}) + "\n"
        answer = self._ask(request.encode())
        if "text" not in answer:
            raise UserError("the chat template", answer["problem"], "mend chat_template.jinja")
        return answer["text"]

    def close(self) -> None:
        """Ends the process, whatever it does."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
            child.wait()

    def _ask(self, request: bytes) -> dict[str, str]:
        try:
            child = self._child or self._start()
            assert child.stdin is not None
            # The child reads all of a request before it renders: this cannot block for long.
            child.stdin.write(request)
            child.stdin.flush()
            return self._read(child, self._seconds)
        except (BrokenPipeError, EOFError):
            self.close()
            return {"problem": "needs too much memory or time"}
        except TimeoutError:
            self.close()
            return {"problem": f"takes longer than {self._seconds:g} seconds"}
        except BaseException:  # an interrupt: what the child answers later must not be read
            self.close()
            raise

    def _start(self) -> subprocess.Popen[bytes]:
        child = Path(__file__).with_name("child.py")
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(child)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a conversation is not for it
        )
        self._read(self._child, START)
        return self._child

    def _read(self, child: subprocess.Popen[bytes], seconds: float) -> dict[str, str]:
        """Its next line; raises TimeoutError or EOFError where none comes."""
        assert child.stdout is not None
        end, parts = time.monotonic() + seconds, list[bytes]()
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while not parts or not parts[-1].endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise TimeoutError
                part = os.read(child.stdout.fileno(), 1 << 16)
                if not part:
                    raise EOFError
                parts.append(part)
        found: dict[str, str] = json.loads(b"".join(parts))
        return found
