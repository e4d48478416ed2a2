"""Sources -> documents -> tokens -> packed rows -> global batches.

Grain, TFDS, SentencePiece and the like are known here alone, and imported where they are used.
"""

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

__all__ = [
    "BytesConfig",
    "DataConfig",
    "EmbeddedSource",
    "HubSource",
    "HuggingFaceTokenizerConfig",
    "JsonlSource",
    "ParquetSource",
    "SentencePieceConfig",
    "Source",
    "TextSource",
    "TfdsSource",
    "TokenizerConfig",
    "data_problems",
]
