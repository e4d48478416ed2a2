"""Renders templates of strangers, in a process of its own that may be killed.

Run as a file by `llmjax.chat_template`: JSON objects in and out, one a line. Needs jinja2 alone.
"""

import contextlib
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 1 << 30  # bytes of address space
SECONDS = 10  # of processor time for a template, should nobody be there to kill this process
LONGEST = 1 << 24  # characters of a rendered text


class Generation(Extension):
    """{% generation %} ... {% endgeneration %} marks what the model wrote; the text is the same."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own way)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements inside."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


class Sandbox(ImmutableSandboxedEnvironment):
    """Refuses what is unsafe at once, also where its value is never used."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Raises SecurityError."""
        raise SecurityError(f"access to {attribute!r} of {type(obj).__name__} is not safe")


def environment() -> Sandbox:
    """What chat templates expect to find."""
    found = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    found.filters["tojson"] = to_json
    found.globals["raise_exception"] = refuse
    found.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    found.globals.pop("lipsum", None)
    return found


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


def answer(request: dict[str, Any]) -> dict[str, str]:
    """{"text": ...}, or {"problem": ...}."""
    try:
        text = compiled(request["template"]).render(request["values"])
    except SecurityError as error:
        return {"problem": f"does what a template may not: {error}"}
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        return {"problem": str(error) + (f" (line {line})" if line else "")}
    except MemoryError:
        return {"problem": "needs too much memory"}
    except RecursionError:
        return {"problem": "calls itself without end"}
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return {"problem": f"fails: {type(error).__name__}: {error}"}
    if len(text) > LONGEST:
        return {"problem": f"writes more than {LONGEST} characters"}
    return {"text": text}


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
