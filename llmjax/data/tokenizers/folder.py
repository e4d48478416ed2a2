"""The folder of a saved tokenizer: a description with checksums, and the files it lists."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.storage.bounded import read_bytes, read_text
from llmjax.storage.checksums import CHECKSUM, check_checksum, with_checksum
from llmjax.storage.json_documents import DOCUMENT, read_json
from llmjax.storage.writing import write_atomically

FORMAT = 1
DESCRIPTION = "llmjax_tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"
TEMPLATE_SIZE = 1 << 20
"""Maximum bytes of a chat template; the longest published ones have some 20,000."""
FILES = "files"
"""Key in DESCRIPTION: name -> checksum of the other files."""


def write_files(
    folder: Path, description: Mapping[str, Any], files: Mapping[str, bytes], template: str | None
) -> None:
    """Writes a tokenizer's files to an empty folder.

    Args:
      folder: existing.
      description: kind, fingerprint, and further values of the kind.
      files: name -> content.
      template: the chat template, if any.
    """
    contents = dict(files)
    if template is not None:
        contents[CHAT_TEMPLATE] = template.encode("utf-8")
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    checksums = {name: _checksum(content) for name, content in contents.items()}
    (folder / DESCRIPTION).write_text(_description_text(description, checksums))


def read_description(folder: Path) -> dict[str, Any]:
    """Reads a tokenizer's description and verifies its files.

    Raises:
      UserError: there is no tokenizer, its format is unknown, or it is damaged.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(folder, "holds no tokenizer", "give a folder that `tokenizer train` wrote")
    try:
        stored = read_json(path)
        version = stored["format"]
    except UserError as error:
        raise UserError(path, f"is damaged: {error.reason}", "restore the file") from error
    except (KeyError, TypeError) as error:
        raise UserError(path, f"is damaged: {error}", "restore the file") from error
    if version != FORMAT:
        raise UserError(folder, f"is of format {version}, this version reads {FORMAT}", "upgrade")
    description = check_checksum(stored, path)
    for key in ("kind", "fingerprint"):
        if not isinstance(description.get(key), str):
            raise UserError(path, f"is damaged: it has no {key}", "restore the file")
    if CHECKSUM in stored:  # otherwise written by an older version, or edited on purpose
        _verify(folder, description.get(FILES))
    return description


def _verify(folder: Path, expected: object) -> None:
    """Rejects missing or changed files, and an added chat template."""
    if not isinstance(expected, dict):
        raise UserError(folder / DESCRIPTION, "lists no files", "restore the file")
    template = [CHAT_TEMPLATE] if (folder / CHAT_TEMPLATE).exists() else []
    for name in dict.fromkeys([*expected, *template]):
        if _checksum(read_bytes(folder / name, DOCUMENT.size)) != expected.get(name):
            fix = "restore them"
            if name == CHAT_TEMPLATE:
                fix += f' or, if you changed it on purpose, remove "{CHECKSUM}" from {DESCRIPTION}'
            raise UserError(folder, f"the tokenizer's files were changed: {name}", fix)


def read_chat_template(folder: Path) -> str | None:
    """The chat template, if any."""
    path = folder / CHAT_TEMPLATE
    return read_text(path, TEMPLATE_SIZE, fix="fix or remove it") if path.is_file() else None


def add_chat_template(folder: Path, template: str) -> None:
    """Adds a chat template to a saved tokenizer that has none.

    Raises:
      UserError: there is no valid tokenizer.
      OSError: the folder cannot be written.
    """
    description = read_description(folder)
    # First without a checksum, so that the folder is valid if the process is killed in between.
    write_atomically(folder / DESCRIPTION, json.dumps(description, indent=1) + "\n")
    write_atomically(folder / CHAT_TEMPLATE, template)
    checksums = {**description.get(FILES, {}), CHAT_TEMPLATE: _checksum(template.encode("utf-8"))}
    write_atomically(folder / DESCRIPTION, _description_text(description, checksums))


def _description_text(description: Mapping[str, Any], checksums: Mapping[str, str]) -> str:
    return json.dumps(with_checksum({**description, FILES: checksums}), indent=1) + "\n"


def _checksum(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
