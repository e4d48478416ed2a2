"""How well a model predicts text: documents -> windows -> rows -> exact sums."""

from typing import TYPE_CHECKING, Any

from llmjax.scoring.config import EvaluationConfig, evaluation_problems

if TYPE_CHECKING:
    from llmjax.scoring.documents import (
        score_documents,
        score_streams,
        score_text,
        window_nats,
        window_sizes,
    )
    from llmjax.scoring.drawn import DrawnScore, score_drawn
    from llmjax.scoring.score import Score, TextScore
    from llmjax.scoring.totals import Totals
    from llmjax.scoring.windows import Window, cut_windows

__all__ = [
    "DrawnScore",
    "EvaluationConfig",
    "Score",
    "TextScore",
    "Totals",
    "Window",
    "cut_windows",
    "evaluation_problems",
    "score_documents",
    "score_drawn",
    "score_streams",
    "score_text",
    "window_nats",
    "window_sizes",
]


def __getattr__(name: str) -> Any:
    """The config is cheap to import; the rest comes, with JAX, when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llmjax.scoring import documents, drawn, score, totals, windows

    for home in (documents, drawn, score, totals, windows):
        if hasattr(home, name):
            return getattr(home, name)
    raise AssertionError(name)
