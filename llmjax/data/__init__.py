"""Sources -> documents -> tokens -> packed rows -> global batches.

Grain, TFDS, SentencePiece and the like are known here alone, and imported where they are used.
Importing this package, or its configs, is cheap: the rest is loaded when first asked for.
"""

import importlib
from typing import TYPE_CHECKING

from llmjax.data.config import (
    BytesConfig,
    DataConfig,
    EmbeddedSource,
    HubSource,
    HuggingFaceTokenizerConfig,
    JsonlSource,
    ParquetSource,
    SentencePieceConfig,
    Source,
    TextSource,
    TfdsSource,
    TokenizerConfig,
    data_problems,
)

if TYPE_CHECKING:
    from llmjax.data.corpus import (
        Corpus,
        Document,
        heldout_documents,
        heldout_text,
        prepare,
        tokenize_documents,
        train_tokenizer,
    )
    from llmjax.data.loader import Batch, CorpusFeed, Loader, batch_at
    from llmjax.data.order import steps_per_epoch
    from llmjax.data.progress import terminal_progress
    from llmjax.data.sources import documents
    from llmjax.data.tokenizer import TextDecoder, Tokenizer, load_tokenizer
    from llmjax.data.tokenizer_import import import_tokenizer

_HOME = {
    "Corpus": "corpus",
    "Document": "corpus",
    "heldout_documents": "corpus",
    "heldout_text": "corpus",
    "prepare": "corpus",
    "tokenize_documents": "corpus",
    "train_tokenizer": "corpus",
    "Batch": "loader",
    "CorpusFeed": "loader",
    "Loader": "loader",
    "batch_at": "loader",
    "steps_per_epoch": "order",
    "terminal_progress": "progress",
    "documents": "sources",
    "TextDecoder": "tokenizer",
    "Tokenizer": "tokenizer",
    "load_tokenizer": "tokenizer",
    "import_tokenizer": "tokenizer_import",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


__all__ = [
    "Batch",
    "BytesConfig",
    "Corpus",
    "CorpusFeed",
    "DataConfig",
    "Document",
    "EmbeddedSource",
    "HubSource",
    "HuggingFaceTokenizerConfig",
    "JsonlSource",
    "Loader",
    "ParquetSource",
    "SentencePieceConfig",
    "Source",
    "TextDecoder",
    "TextSource",
    "TfdsSource",
    "Tokenizer",
    "TokenizerConfig",
    "batch_at",
    "data_problems",
    "documents",
    "heldout_documents",
    "heldout_text",
    "import_tokenizer",
    "load_tokenizer",
    "prepare",
    "steps_per_epoch",
    "terminal_progress",
    "tokenize_documents",
    "train_tokenizer",
]
