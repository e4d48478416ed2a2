"""Models in and out: what others published becomes a run folder, and a run what others load."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmjax.convert.exporting import export
    from llmjax.convert.importing import import_model

__all__ = ["export", "import_model"]


def __getattr__(name: str) -> Any:
    """Both come, with JAX, when they are asked for."""
    if name == "import_model":
        from llmjax.convert.importing import import_model

        return import_model
    if name == "export":
        from llmjax.convert.exporting import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
