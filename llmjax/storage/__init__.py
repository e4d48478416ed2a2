"""Files read within limits, and written whole or not at all."""

from llmjax.storage.bounded import read_bytes, read_text, size_text
from llmjax.storage.encodings import BOM, other_encoding
from llmjax.storage.json_documents import (
    DOCUMENT,
    RECORD,
    SETTINGS,
    JsonLimits,
    parse_json,
    read_json,
)
from llmjax.storage.json_lines import json_lines
from llmjax.storage.json_text import json_text
from llmjax.storage.names import check_utf8
from llmjax.storage.seals import SEAL, sealed, unsealed
from llmjax.storage.writing import new_file_mode, new_folder_mode, write_atomically

__all__ = [
    "BOM",
    "DOCUMENT",
    "RECORD",
    "SEAL",
    "SETTINGS",
    "JsonLimits",
    "check_utf8",
    "json_lines",
    "json_text",
    "new_file_mode",
    "new_folder_mode",
    "other_encoding",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_text",
    "sealed",
    "size_text",
    "unsealed",
    "write_atomically",
]
