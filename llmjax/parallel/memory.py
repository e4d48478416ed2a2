"""Memory that runs out, of a device or the machine: how much was wanted, how to need less."""

import contextlib
import re
from collections.abc import Iterator

from llmjax.errors import UserError
from llmjax.storage.bounded import size_text

FEWER = (
    "lower --batch-size or --context, compute with --dtype bfloat16, or share the model among more "
    "devices with --mesh.tensor"
)
"""What needs less memory where a model is used."""
TRAINING = (
    "compute a batch in parts with --optimizer.accumulate, keep fewer activations with "
    "--compute.remat full, share the state among more devices with --mesh.fsdp, or lower "
    "--data.batch-size, --data.length or --evaluation.batch-size"
)
"""What needs less memory in training."""
LOADING = (
    "store with --dtype bfloat16, read with more devices (--mesh.fsdp), or use a machine with more "
    "memory"
)
"""What needs less memory where a model is read and written."""

_MARKS = ("out of memory", "ran out of memory", "failed to allocate", "allocating", "allocate")
# XLA's words on TPUs, on GPUs and CPUs (old and new), and NumPy's.
_OVERALL = re.compile(r"Used ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) (\w+)")
_BYTES = re.compile(r"allocat\w*(?: request for)? ([\d,]+) ?(?:bytes|B\b)", re.IGNORECASE)
_SIZE = re.compile(r"(?:allocat\w*|reserve)(?: request for)? ([\d.]+ ?[KMGT]i?B?)\b", re.IGNORECASE)
_ARRAY = re.compile(r"Unable to allocate ([\d.]+) ([KMGTPE]?i?B|bytes) for an array (.+)")


@contextlib.contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Raises UserError where the block runs out of memory; other errors pass.

    Args:
      advice: how to need less, such as TRAINING.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        mistake = memory_mistake(error, advice)
        if mistake is None:
            raise
        raise mistake from error


def memory_mistake(error: BaseException, advice: str) -> UserError | None:
    """What ran out, where an error says that something did; else None."""
    text = str(error)
    if isinstance(error, MemoryError):
        found = _ARRAY.search(text)
        reason = "there is not enough of it"
        if found:
            reason = f"{found[1]} {found[2]} for an array {found[3]} cannot be had"
        return UserError("this machine's memory", reason, advice)
    lowered = text.lower()
    if not isinstance(error, RuntimeError) or "no space left" in lowered:
        return None
    if "resource_exhausted" not in lowered and "resource exhausted" not in lowered:
        return None
    if not any(mark in lowered for mark in _MARKS):
        return None  # another resource: a message too long, a quota
    return UserError("the device's memory", _wanted(text), advice)


def _wanted(text: str) -> str:
    """How much was asked for, of how much, as far as XLA says."""
    if found := _OVERALL.search(text):
        return f"{found[1]} of {found[3]} are needed, and there are {found[2]}"
    if found := _BYTES.search(text):
        return f"{size_text(int(found[1].replace(',', '')))} more are needed than are free"
    if found := _SIZE.search(text):
        return f"{found[1]} more are needed than are free"
    return "there is not enough of it"
