"""Texts of one process, or of each, in all processes. All of them call each function together."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def text_of(process: int, text: str) -> str:
    """The text that `process` gives; those of the others are ignored."""
    if jax.process_count() == 1:
        return text
    is_source, data = jax.process_index() == process, np.frombuffer(text.encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size), is_source=is_source))
    padded = np.zeros(size, np.uint8)
    padded[: min(size, data.size)] = data[:size]
    received = multihost_utils.broadcast_one_to_all(padded, is_source=is_source)
    return bytes(np.asarray(received)).decode()


def texts_of_all(text: str) -> list[str]:
    """Each process's text, by process index."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    padded = np.zeros(max(sizes), np.uint8)
    padded[: data.size] = data
    if not padded.size:
        return [""] * len(sizes)
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]
