"""Renders untrusted chat templates in a separate process, which its parent may kill.

Run as a script by `llmjax.data.chat_template.template`: JSON objects in and out, one per line.
Needs only jinja2.
"""

import contextlib
import json
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MEMORY = 1 << 30  # bytes of address space
LONGEST = 1 << 24  # characters of a rendered text
PROBLEM = 500  # characters of an error message


class Generation(Extension):
    """{% generation %} ... {% endgeneration %} encloses what the model wrote.

    The enclosed text is rendered unchanged between `marks`, which are empty unless the spans of
    these blocks are requested. The body has its own scope, as in Transformers.
    """

    tags = {"generation"}  # noqa: RUF012 (jinja2's interface)
    marks = ("", "")

    def parse(self, parser: Parser) -> nodes.Node:
        """Wraps the enclosed statements in a call of `_marked`."""
        line = next(parser.stream).lineno
        body = list(parser.parse_statements(("name:endgeneration",), drop_needle=True))
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
        return f"{self.marks[0]}{caller()}{self.marks[1]}"


class PublicNamespace(Namespace):
    """Rejects attributes whose name begins with an underscore."""

    def __init__(*args: Any, **values: Any) -> None:  # so that `self` may be the name of a value
        attributes = dict(*args[1:], **values)
        for name in attributes:
            _require_public(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_public(name)
        super().__setitem__(name, value)


def _require_public(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace may not hold {name!r}")


class Sandbox(ImmutableSandboxedEnvironment):
    """Raises on unsafe access at once, even if its value is never used."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Raises SecurityError."""
        raise SecurityError(f"access to {attribute!r} of {type(obj).__name__} is not safe")


def environment() -> Sandbox:
    """The Jinja environment that chat templates expect."""
    sandbox = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    sandbox.filters["tojson"] = to_json
    sandbox.globals["raise_exception"] = refuse
    sandbox.globals["namespace"] = PublicNamespace
    sandbox.globals.pop("lipsum", None)
    return sandbox


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: jinja2's own filter escapes it for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=None if separators is None else (separators[0], separators[1]),
        sort_keys=sort_keys,
    )


def refuse(message: str) -> NoReturn:
    """`raise_exception`, which templates call to reject messages."""
    raise TemplateError(message)


@lru_cache(maxsize=4)
def compile_template(template: str) -> Template:
    """Compiles a template; cached, as this takes many times as long as rendering it."""
    return environment().from_string(template)


class TooLongError(Exception):
    """The rendered text exceeds LONGEST."""


def render_bounded(template: Template, values: dict[str, Any]) -> str:
    """Renders a template; raises TooLongError as soon as the text exceeds LONGEST."""
    parts, size = list[str](), 0
    for part in template.generate(values):
        parts.append(part)
        size += len(part)
        if size > LONGEST:
            raise TooLongError
    return "".join(parts)


def render(request: dict[str, Any]) -> dict[str, Any]:
    """Returns {"text": ...}; if "generation" is requested, also "spans": [first, end) per block."""
    template = compile_template(request["template"])
    # The same time for all renderings of a conversation, which are compared with each other.
    now = datetime.fromtimestamp(request["now"]) if request.get("now") else datetime.now()
    values = {"strftime_now": lambda form: now.strftime(form), **request["values"]}
    text = render_bounded(template, values)
    if not request.get("generation"):
        return {"text": text}
    token = secrets.token_hex(8)
    marks = (f"\ue000{token}\ue001", f"\ue002{token}\ue003")
    extension = next(e for e in template.environment.extensions.values() if type(e) is Generation)
    extension.marks = marks
    try:
        marked = render_bounded(template, values)
    finally:
        extension.marks = ("", "")
    if marked.replace(marks[0], "").replace(marks[1], "") != text:
        return {"problem": "changes the text of its {% generation %} blocks after them"}
    return {"text": text, "spans": spans_between(marked, marks)}


def spans_between(text: str, marks: tuple[str, str]) -> list[tuple[int, int]]:
    """Spans between marks, in the text without the marks; of nested ones the outermost."""
    spans, depth, first, start, removed = list[tuple[int, int]](), 0, 0, 0, 0
    while True:
        begin, end = (text.find(mark, start) for mark in marks)
        if begin < 0 and end < 0:
            return spans
        opens = begin >= 0 and (end < 0 or begin < end)
        position = begin if opens else end
        if opens and depth == 0:
            first = position - removed
        depth += 1 if opens else -1
        if depth == 0 and position - removed > first:
            spans.append((first, position - removed))
        start = position + len(marks[0])
        removed += len(marks[0])


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """`render`, with errors as {"problem": ...}."""
    try:
        return render(request)
    except SecurityError as error:
        return {"problem": one_line(f"does what the sandbox forbids: {error}")}
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        return {"problem": one_line(error) + (f" (line {line})" if line else "")}
    except TooLongError:
        return {"problem": f"writes more than {LONGEST} characters"}
    except MemoryError:
        return {"problem": "needs too much memory"}
    except RecursionError:
        return {"problem": "recurses without end"}
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return {"problem": one_line(f"fails: {type(error).__name__}: {error}")}


def one_line(message: object) -> str:
    """Shortens a message, which may be the template's own, to one line of printable text."""
    words = str(message)[: 4 * PROBLEM].split()
    text = "".join(c if c.isprintable() else "?" for c in " ".join(words))
    return text if len(text) <= PROBLEM else f"{text[:PROBLEM]}..."


def limit_memory() -> None:
    """Limits the memory of this process, if the system supports it."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    # Refused where the limit is already lower, or not supported.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def limit_time(seconds: float) -> None:
    """Ends this process by SIGPROF after so many seconds of its own CPU time, even if it is inside
    one long operation; 0: never."""
    if hasattr(signal, "setitimer"):  # a Unix
        signal.setitimer(signal.ITIMER_PROF, seconds)


def main() -> None:
    """Answers requests until stdin ends."""
    print("{}", flush=True)
    for line in sys.stdin:
        limit_memory()
        request = json.loads(line)
        limit_time(request["seconds"])
        print(json.dumps(answer(request)), flush=True)
        limit_time(0)


if __name__ == "__main__":
    main()
