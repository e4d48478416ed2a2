"""JSON objects that carry a checksum of themselves: a changed one is refused instead of used.

It is no defence against someone who means harm: whoever can change the object can change its
checksum, too.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from llmjax.errors import UserError

SEAL = "checksum"
"""The name under which an object carries its checksum."""


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The object with its checksum as the last member."""
    rest = {name: value for name, value in document.items() if name != SEAL}
    return {**rest, SEAL: _checksum(rest)}


def unsealed(document: Mapping[str, Any], name: object) -> dict[str, Any]:
    """The object without its checksum, which is compared; one that has none is taken as it is.

    Args:
      document: what was read.
      name: its path, for messages.

    Raises:
      UserError: it is not as it was written.
    """
    rest = {key: value for key, value in document.items() if key != SEAL}
    if SEAL in document and document[SEAL] != _checksum(rest):
        raise UserError(
            name,
            "was changed after it was written (its checksum differs)",
            f'restore it from a copy or, if the change is meant, remove "{SEAL}" from it',
        )
    return rest


def _checksum(document: Mapping[str, Any]) -> str:
    """Of the values, however they are laid out in the file."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
