"""Renders templates of strangers, in a process of its own that may be killed.

Run as a file by `llmjax.data.chat_template.template`: JSON objects in and out, one a line. Needs
only jinja2.
"""

import contextlib
import json
import secrets
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
SECONDS = 10  # of processor time for a template, should nobody be there to kill this process
LONGEST = 1 << 24  # characters of a rendered text
PROBLEM = 500  # characters of a message


class Generation(Extension):
    """{% generation %} ... {% endgeneration %} surrounds what the model wrote.

    The text inside is written as it is, between `marks`, which are empty unless the places of these
    blocks are asked for. The body is a scope of its own, as in Transformers.
    """

    tags = {"generation"}  # noqa: RUF012 (jinja2's own way)
    marks = ("", "")

    def parse(self, parser: Parser) -> nodes.Node:
        """A call of `_marked` with the statements inside."""
        line = next(parser.stream).lineno
        body = list(parser.parse_statements(("name:endgeneration",), drop_needle=True))
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
        return f"{self.marks[0]}{caller()}{self.marks[1]}"


class PublicNamespace(Namespace):
    """Holds no attribute whose name begins with an underscore."""

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
    """Refuses what is unsafe at once, also where its value is never used."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Raises SecurityError."""
        raise SecurityError(f"access to {attribute!r} of {type(obj).__name__} is not safe")


def environment() -> Sandbox:
    """What chat templates expect to find."""
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
    """JSON as it is: jinja2's own filter would escape for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=None if separators is None else (separators[0], separators[1]),
        sort_keys=sort_keys,
    )


def refuse(message: str) -> NoReturn:
    """What a template calls for messages that it does not take."""
    raise TemplateError(message)


@lru_cache(maxsize=4)
def compiled(template: str) -> Template:
    """A template that is ready: compiling it takes many times as long as rendering it."""
    return environment().from_string(template)


class TooLongError(Exception):
    """More text than LONGEST."""


def written(template: Template, values: dict[str, Any]) -> str:
    """The text; raises TooLongError as soon as there is too much of it."""
    parts, size = list[str](), 0
    for part in template.generate(values):
        parts.append(part)
        size += len(part)
        if size > LONGEST:
            raise TooLongError
    return "".join(parts)


def rendered(request: dict[str, Any]) -> dict[str, Any]:
    """{"text": ...}; where "generation" is asked for, also "spans": [first, end) of each block."""
    template = compiled(request["template"])
    # One time for all renderings of a conversation: they are compared with each other.
    now = datetime.fromtimestamp(request["now"]) if request.get("now") else datetime.now()
    values = {"strftime_now": lambda form: now.strftime(form), **request["values"]}
    text = written(template, values)
    if not request.get("generation"):
        return {"text": text}
    token = secrets.token_hex(8)
    marks = (f"\ue000{token}\ue001", f"\ue002{token}\ue003")
    extension = next(e for e in template.environment.extensions.values() if type(e) is Generation)
    extension.marks = marks
    try:
        again = written(template, values)
    finally:
        extension.marks = ("", "")
    if again.replace(marks[0], "").replace(marks[1], "") != text:
        return {"problem": "changes what stands in its {% generation %} blocks after them"}
    return {"text": text, "spans": spans_between(again, marks)}


def spans_between(text: str, marks: tuple[str, str]) -> list[tuple[int, int]]:
    """Where the text between marks stands once they are left out; of nested ones the outermost."""
    spans, depth, first, at, removed = list[tuple[int, int]](), 0, 0, 0, 0
    while True:
        begin, end = (text.find(mark, at) for mark in marks)
        if begin < 0 and end < 0:
            return spans
        opens = begin >= 0 and (end < 0 or begin < end)
        place = begin if opens else end
        if opens and depth == 0:
            first = place - removed
        depth += 1 if opens else -1
        if depth == 0 and place - removed > first:
            spans.append((first, place - removed))
        at = place + len(marks[0])
        removed += len(marks[0])


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """As `rendered`, or {"problem": ...}."""
    try:
        return rendered(request)
    except SecurityError as error:
        return {"problem": one_line(f"does what a template may not: {error}")}
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        return {"problem": one_line(error) + (f" (line {line})" if line else "")}
    except TooLongError:
        return {"problem": f"writes more than {LONGEST} characters"}
    except MemoryError:
        return {"problem": "needs too much memory"}
    except RecursionError:
        return {"problem": "calls itself without end"}
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return {"problem": one_line(f"fails: {type(error).__name__}: {error}")}


def one_line(message: object) -> str:
    """A message, which may be the template's own, as a short line of printable text."""
    words = str(message)[: 4 * PROBLEM].split()
    text = "".join(c if c.isprintable() else "?" for c in " ".join(words))
    return text if len(text) <= PROBLEM else f"{text[:PROBLEM]}..."


def limit() -> None:
    """Bounds this process, where the system can."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(usage.ru_utime + usage.ru_stime) + SECONDS
    for kind, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, seconds)):
        # Where the system refuses, it bounds the process more tightly already, or cannot at all.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


def main() -> None:
    """Answers until its input ends."""
    print("{}", flush=True)
    for line in sys.stdin:
        limit()
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
