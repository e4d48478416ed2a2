"""The options of `llmjax serve`; cheap to import."""

from dataclasses import dataclass

from llmjax.engine.config import EngineConfig, engine_problems
from llmjax.inference.language_model import LoadOptions


@dataclass(frozen=True)
class ServeOptions(EngineConfig, LoadOptions):
    """Options of serve."""

    host: str = "127.0.0.1"
    """Address to listen on; the default accepts connections from this machine only."""
    port: int = 8000
    """Port to listen on."""
    index: tuple[str, ...] = ()
    """An index of `llmjax index`, to be searched at /v1/search; several if given again."""
    api_key_file: str | None = None
    """A file of keys, one per line; each request must then carry one as its bearer token."""
    max_body: int = 1 << 20
    """Most bytes of a request's body."""
    max_new_tokens: int = 1024
    """Most tokens of a completion, and how many a request gets that names no limit."""
    max_seconds: float = 600.0
    """Most seconds of a request; one that takes longer is dropped."""


def serve_problems(options: ServeOptions) -> list[str]:
    """Return all problems of the values, a line each that starts with the field."""
    checks = {
        "port: must be from 1 to 65535": 1 <= options.port <= 65535,
        "max_body: must be at least 1": options.max_body >= 1,
        "max_new_tokens: must be at least 1": options.max_new_tokens >= 1,
        "max_seconds: must be above 0": options.max_seconds > 0,
    }
    return [*engine_problems(options), *(line for line, fine in checks.items() if not fine)]
