"""The objects of a run in a bucket: which of them its local copies have, and which of them early.

A checkpoint in a bucket is published by its checksums.json, its last object: a folder without it is
still being uploaded, was left by a kill, or is being deleted.
"""

import re

from llmjax.storage.checksums import MANIFEST
from llmjax.storage.stores.mirror import Objects

LOCK = ".lock"
"""Name of the lock of a run."""
_CHECKPOINT = re.compile(r"((?:checkpoints|frozen)/[0-9]+)/")
# Values of arrays: of Orbax's OCDBT, and of Zarr 3, where a scalar's only chunk is "c".
_VALUES = re.compile(r"(checkpoints|frozen)/.*(/d/|/c/|/c$)")


def is_fetched_later(name: str) -> bool:
    """Whether an object of a run is large, and needed at most by those who read a checkpoint."""
    return name.startswith(("tensorboard/", "profile/")) or bool(_VALUES.match(name))


def visible(objects: Objects) -> Objects:
    """The objects of a run without its lock and those of unpublished checkpoints."""
    return {
        name: info
        for name, info in objects.items()
        if name != LOCK
        and ((folder := checkpoint_of(name)) is None or f"{folder}/{MANIFEST}" in objects)
    }


def checkpoint_of(name: str) -> str | None:
    """The checkpoint that an object belongs to, as "checkpoints/STEP"; None for other objects."""
    match = _CHECKPOINT.match(name)
    return match[1] if match else None
