"""Out-of-memory errors of a device or the machine: how much was needed, how to need less."""

import contextlib
import re
from collections.abc import Iterator

from llmjax.errors import UserError
from llmjax.storage.bounded import size_text

FEWER = (
    "lower --batch-size or --context, compute with --dtype bfloat16, or share the model among more "
    "devices with --mesh.tensor"
)
"""Advice for inference."""
TRAINING = (
    "compute a batch in parts with --optimizer.accumulate, keep fewer activations with "
    "--compute.remat full, share the state among more devices with --mesh.fsdp, or lower "
    "--data.batch-size, --data.length or --evaluation.batch-size"
)
"""Advice for training."""
LOADING = (
    "store with --dtype bfloat16, read with more devices (--mesh.fsdp), or use a machine with more "
    "memory"
)
"""Advice for reading and writing models."""

_MARKS = ("out of memory", "ran out of memory", "failed to allocate", "allocating", "allocate")
# Messages of XLA on TPUs, on GPUs and CPUs (old and new), and of NumPy.
_OVERALL = re.compile(r"Used ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) (\w+)")
_BYTES = re.compile(r"allocat\w*(?: request for)? ([\d,]+) ?(?:bytes|B\b)", re.IGNORECASE)
_SIZE = re.compile(r"(?:allocat\w*|reserve)(?: request for)? ([\d.]+ ?[KMGT]i?B?)\b", re.IGNORECASE)
_ARRAY = re.compile(r"Unable to allocate ([\d.]+) ([KMGTPE]?i?B|bytes) for an array (.+)")


@contextlib.contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Raises UserError if the block runs out of memory; other errors propagate.

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
    """Returns the mistake if the error says that memory ran out, else None."""
    text = str(error)
    if isinstance(error, MemoryError):
        reason = "there is not enough"
        if array := _ARRAY.search(text):
            reason = f"{array[1]} {array[2]} for an array {array[3]} could not be allocated"
        return UserError("this machine's memory", reason, advice)
    lowered = text.lower()
    if not isinstance(error, RuntimeError) or "no space left" in lowered:
        return None
    if "resource_exhausted" not in lowered and "resource exhausted" not in lowered:
        return None
    if not any(mark in lowered for mark in _MARKS):
        return None  # another resource, such as a quota
    return UserError("the device's memory", _shortage(text), advice)


def _shortage(text: str) -> str:
    """How much was needed, and how much there is, as far as XLA says."""
    if match := _OVERALL.search(text):
        return f"{match[1]} of {match[3]} needed, {match[2]} available"
    if match := _BYTES.search(text):
        return f"{size_text(int(match[1].replace(',', '')))} could not be allocated"
    if match := _SIZE.search(text):
        return f"{match[1]} could not be allocated"
    return "there is not enough"
