"""Models in and out: what others published becomes a run folder, and a run what others load."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmjax.convert.exporting import export
    from llmjax.convert.importing import import_model
    from llmjax.convert.peft_reading import import_adapter

__all__ = ["export", "import_adapter", "import_model"]


def __getattr__(name: str) -> Any:
    """They come, with JAX, when they are asked for."""
    if name == "import_adapter":
        from llmjax.convert.peft_reading import import_adapter

        return import_adapter
    if name == "import_model":
        from llmjax.convert.importing import import_model

        return import_model
    if name == "export":
        from llmjax.convert.exporting import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
