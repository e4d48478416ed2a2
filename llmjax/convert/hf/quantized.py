"""Published weights in 8 or 4 bits, widened as they are read, as Transformers widens them.

    fp8     NAME in float8_e4m3fn, NAME_scale_inv with a float per block of 128 x 128, or one
    mxfp4   NAME_blocks with two weights of 4 bits (e2m1) in a byte, NAME_scales with a power of two
            per 32 weights (OCP Microscaling Formats 1.0); for gpt-oss's experts

Products with the scales are in float32; what is read has the model's dtype.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np

from llmjax.convert.hf.config import shortened
from llmjax.convert.tensors import FLOATS, Index, TensorSource
from llmjax.errors import UserError

FIELD = "quantization_config"
"""The field of config.json that says how weights are quantized."""
FP8_SCALE, MX_BLOCKS, MX_SCALES = "_scale_inv", "_blocks", "_scales"
MX_BIAS = 127
"""Of the exponents of MXFP4."""
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""The value of each e2m1 number."""


def widened(source: TensorSource, config: dict[str, Any], where: object) -> TensorSource:
    """The tensors of a model, none of them quantized; removes what config.json says about that.

    Args:
      source: the tensors as they are stored.
      config: config.json, changed in place.
      where: its path, for messages.

    Raises:
      UserError: the quantization is not supported.
    """
    described = config.pop(FIELD, None)
    if described is None:
        return source
    method = described.get("quant_method") if isinstance(described, dict) else described
    dtype = _dtype(config)
    if method == "fp8":
        return Fp8Tensors(source, _blocks(described, where), dtype)
    if method == "mxfp4":
        return Mxfp4Tensors(source, dtype)
    reason = f"{FIELD} is of the method {shortened(repr(method))}; fp8 and mxfp4 are read"
    raise UserError(where, reason, "give the files of the model that are not quantized, or a GGUF")


def _dtype(config: Mapping[str, Any]) -> np.dtype:
    """The model's dtype; bfloat16 if config.json has none."""
    return FLOATS.get(str(config.get("dtype") or config.get("torch_dtype")), FLOATS["bfloat16"])


def _blocks(described: Mapping[str, Any], where: object) -> tuple[int, int] | None:
    """Rows and columns of a block; None if a tensor has one scale."""
    size = described.get("weight_block_size", (128, 128))
    if size is None:
        return None
    if not (
        isinstance(size, list | tuple)
        and len(size) == 2
        and all(type(n) is int and 0 < n <= 1 << 20 for n in size)
    ):
        raise UserError(where, f"weight_block_size is {shortened(repr(size))}, not two sizes")
    return size[0], size[1]


@dataclass(frozen=True)
class Fp8Tensors:
    """A `TensorSource` whose float8 matrices have scales of their blocks."""

    source: TensorSource
    blocks: tuple[int, int] | None
    wide: np.dtype

    @cached_property
    def _stored(self) -> dict[str, None]:
        return dict.fromkeys(self.source.names())

    def names(self) -> list[str]:
        return [
            name
            for name in self._stored
            if not (name.endswith(FP8_SCALE) and name.removesuffix(FP8_SCALE) in self._stored)
        ]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(name)

    def dtype(self, name: str) -> np.dtype:
        return self.wide if self._is_scaled(name) else self.source.dtype(name)

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        values = self.source.read(name, index)
        if not self._is_scaled(name):
            return values
        scales = self._scales(name)
        if scales.ndim == 2:
            slices = index or (slice(None),) * 2
            for axis, (part, size) in enumerate(zip(slices, self._block(name), strict=True)):
                within = np.arange(self.shape(name)[axis])[part] // size
                scales = scales.take(within, axis)
        return (values.astype(np.float32) * scales).astype(self.wide)

    def _is_scaled(self, name: str) -> bool:
        is_narrow = self.source.dtype(name) == ml_dtypes.float8_e4m3fn
        return is_narrow and name + FP8_SCALE in self._stored

    def _scales(self, name: str) -> np.ndarray:
        """A scale, or one per block, in float32."""
        scales = self.source.read(name + FP8_SCALE).astype(np.float32)
        if scales.size == 1:
            return scales.reshape(())
        shape, block = self.shape(name), self._block(name)
        grid = tuple(-(-size // part) for size, part in zip(shape, block, strict=True))
        if scales.shape != grid:
            reason = f"has shape {list(scales.shape)}, and {name} has {list(grid)} blocks"
            raise UserError(f"tensor {name}{FP8_SCALE}", reason, "download it again")
        return scales

    def _block(self, name: str) -> tuple[int, int]:
        if self.blocks is None or len(self.shape(name)) != 2:
            reason = "has several scales, and config.json states no blocks of a matrix"
            raise UserError(f"tensor {name}", reason, "check config.json")
        return self.blocks


@dataclass(frozen=True)
class Mxfp4Tensors:
    """A `TensorSource` whose pairs of blocks and scales are experts' matrices.

    [E, rows, G, B] bytes and [E, rows, G] exponents are [E, 2 G B, rows] weights.
    """

    source: TensorSource
    wide: np.dtype

    @cached_property
    def _packed(self) -> dict[str, None]:
        names = dict.fromkeys(self.source.names())
        found = (name.removesuffix(MX_BLOCKS) for name in names if name.endswith(MX_BLOCKS))
        return dict.fromkeys(name for name in found if name + MX_SCALES in names)

    def names(self) -> list[str]:
        parts = {name + end for name in self._packed for end in (MX_BLOCKS, MX_SCALES)}
        return [*(name for name in self.source.names() if name not in parts), *self._packed]

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._packed:
            return self.source.shape(name)
        blocks, scales = (self.source.shape(name + end) for end in (MX_BLOCKS, MX_SCALES))
        if len(blocks) != 4 or blocks[:3] != scales:
            reason = f"has shape {list(blocks)}, and its scales have {list(scales)}"
            raise UserError(f"tensor {name}{MX_BLOCKS}", reason, "download it again")
        experts, rows, groups, size = blocks
        return experts, 2 * groups * size, rows

    def dtype(self, name: str) -> np.dtype:
        return self.wide if name in self._packed else self.source.dtype(name)

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        if name not in self._packed:
            return self.source.read(name, index)
        self.shape(name)  # checks both
        experts, columns, rows = index or (slice(None),) * 3
        narrow = self.source.read(name + MX_BLOCKS, (experts, rows, slice(None), slice(None)))
        scales = self.source.read(name + MX_SCALES, (experts, rows, slice(None)))
        pairs = np.stack([FP4[narrow & 15], FP4[narrow >> 4]], -1)
        pairs = np.ldexp(pairs, scales.astype(np.int32)[..., None, None] - MX_BIAS)
        values = pairs.reshape(*narrow.shape[:2], -1)[:, :, columns]
        return np.ascontiguousarray(values.swapaxes(1, 2).astype(self.wide))
