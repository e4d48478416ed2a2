"""What is to be predicted from what. An objective turns windows of the stream into a batch."""

from dataclasses import dataclass

import numpy as np

from llmjax.data.packing import Windows


@dataclass(frozen=True)
class Causal:
    """Every token from those before it in its document; a document's first from BOS."""

    def batch(self, windows: Windows, bos_id: int, pad_id: int) -> dict[str, np.ndarray]:
        """inputs, targets, segments, positions int32 [R, L]; weights float32 [R, L], 0 or 1."""
        real = windows.segments > 0
        inputs = np.where(windows.first, bos_id, windows.previous)
        return {
            "inputs": np.where(real, inputs, pad_id).astype(np.int32),
            "targets": np.where(real, windows.tokens, pad_id).astype(np.int32),
            "weights": real.astype(np.float32),
            "segments": windows.segments,
            "positions": windows.positions,
        }


# Masked, span and prefix objectives are further types with the same method.
Objective = Causal
