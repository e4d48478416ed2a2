"""How text is continued: prompts -> rows -> tokens -> completions."""

from typing import TYPE_CHECKING, Any

from llmjax.decoding.config import DecodingConfig, decoding_problems

if TYPE_CHECKING:
    from llmjax.decoding.completions import Completion, Piece, stream_completions

__all__ = [
    "Completion",
    "DecodingConfig",
    "Piece",
    "decoding_problems",
    "stream_completions",
]


def __getattr__(name: str) -> Any:
    """The config is cheap to import; the rest comes, with JAX, when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llmjax.decoding import completions

    return getattr(completions, name)
