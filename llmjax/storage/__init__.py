"""Files read within limits, and written whole or not at all."""

from llmjax.storage.bounded import read_bytes, read_text
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
from llmjax.storage.writing import new_file_mode, new_folder_mode, write_atomically

__all__ = [
    "DOCUMENT",
    "RECORD",
    "SETTINGS",
    "JsonLimits",
    "check_utf8",
    "json_lines",
    "json_text",
    "new_file_mode",
    "new_folder_mode",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_text",
    "write_atomically",
]
