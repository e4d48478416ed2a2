"""The time of a step, from what it computes and sends, and what a chip can do at best.

Two sources of the time of matrix products: FLOPs at a share of the peak (analytic), or the cycles
that a TPU compiler estimates (compiled). The rest is alike: attention kernels, whose cycles no
compiler knows, run at a share of the peak; a collective takes its bytes over the links of its axis,
and is exposed unless it runs beside products.
"""

from dataclasses import dataclass

from llmjax.parallel.chips import Chip, NarrowDtype


@dataclass(frozen=True)
class Efficiency:
    """Shares of a chip's peak FLOP/s that programs reach."""

    products: float
    """In large matrix products."""
    grouped: float
    """In grouped products, each row of which has the matrix of its expert."""
    attention: float
    """In fused attention, of the FLOPs that are not masked."""


TPU = Efficiency(products=0.9, grouped=0.6, attention=0.5)
"""Products: what compilers estimate for Llama 8B on v5e (0.87 to 1.0). Attention: splash kernels
reach 0.4 to 0.6. Grouped products: chosen by what MaxText publishes for Mixtral 8x7B on 256 v5p."""
BIG_MXU = Efficiency(products=0.62, grouped=0.4, attention=0.4)
"""Of v6e and v7x, whose matrix units are 256 wide, twice as wide as most heads. Chosen by what
MaxText publishes for Llama 8B on 256 v6e."""
GPU = Efficiency(products=0.6, grouped=0.4, attention=0.4)
"""Chosen by what torchtitan publishes for Llama 8B, at the power limit of its H100; that of grouped
products in the proportion of TPUs."""

EFFICIENCY: dict[str, Efficiency] = {"v6e": BIG_MXU, "v7x": BIG_MXU}
"""Of single chips, by name."""


def efficiency_of(chip: Chip) -> Efficiency:
    """The shares of the peak that programs reach on a chip."""
    return EFFICIENCY.get(chip.name, TPU if chip.platform == "tpu" else GPU)


@dataclass(frozen=True)
class Transfer:
    """A collective, or all of a kind over one mesh axis, in one step."""

    kind: str
    """Such as all-gather."""
    axis: str
    """The mesh axis, or several joined by " x "."""
    wire_bytes: float
    """That a device sends."""
    bandwidth: float
    """Bytes per second of the device's links along the axis."""
    hidden: bool
    """Whether it can run beside products."""

    @property
    def seconds(self) -> float:
        """The time it takes alone."""
        return self.wire_bytes / self.bandwidth


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step on one device."""

    products: float
    """Matrix products and what is fused with them."""
    attention: float
    memory: float
    """What only reads and writes memory: the optimizer, norms, residuals. 0 if in `products`."""
    transfers: tuple[Transfer, ...] = ()
    narrow: float = 0.0
    """Of `products`: those with operands of 8 bits."""
    grouped: float = 0.0
    """Of `products`: those of experts."""
    bubble: float = 0.0
    """In which a stage of a pipeline waits for microbatches; 0 if in `products`."""

    @property
    def computing(self) -> float:
        """Seconds without collectives."""
        return self.products + self.attention + self.memory

    @property
    def exposed(self) -> dict[int, float]:
        """Seconds that each transfer, by its index, adds to the step.

        Hidden ones share the time of the products: what exceeds it is exposed, in proportion.
        """
        beside = sum(each.seconds for each in self.transfers if each.hidden)
        excess = max(0.0, 1 - self.products / beside) if beside else 0.0
        return {
            index: each.seconds * (excess if each.hidden else 1.0)
            for index, each in enumerate(self.transfers)
        }

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.computing + self.bubble + sum(self.exposed.values())


def product_seconds(chip: Chip, flops: float, dtype: NarrowDtype | None = None) -> float:
    """Seconds of large matrix products.

    Products of 8-bit operands are taken to reach the share of their peak that bfloat16 ones reach
    of theirs; on a chip that has no faster ones, they take as long.

    Args:
      chip: the device.
      flops: what it computes: hardware FLOPs, with what is recomputed.
      dtype: of the operands; None: bfloat16.
    """
    peak = chip.flops if dtype is None else chip.narrow_flops(dtype) or chip.flops
    return flops / (peak * efficiency_of(chip).products)


def grouped_seconds(chip: Chip, flops: float) -> float:
    """Seconds of grouped products."""
    return flops / (chip.flops * efficiency_of(chip).grouped)


def attention_seconds(chip: Chip, flops: float, efficiency: float | None = None) -> float:
    """Seconds of fused attention kernels.

    Args:
      chip: the device.
      flops: without what masks hide.
      efficiency: share of the peak; None: the chip's.
    """
    return flops / (chip.flops * (efficiency or efficiency_of(chip).attention))


def cycle_seconds(chip: Chip, cycles: float) -> float:
    """Seconds of cycles that a TPU compiler estimates.

    Raises:
      ValueError: the chip's clock is not known.
    """
    if chip.clock is None:
        raise ValueError(f"{chip.name}: the clock is not known")
    return cycles / chip.clock


def compiled_bandwidth(chip: Chip, kind: str) -> float:
    """Bytes per second that a TPU sends in a collective that a compiler made.

    A gather or a scatter takes one dimension of a flat torus; others take all dimensions.

    Args:
      chip: the device.
      kind: of the collective, such as all-gather.
    """
    flat = chip.dimensions == 2 and kind != "all-reduce"
    return chip.link * (1 if flat else chip.dimensions)


def attention_flops(
    products: float, tokens: float, keys: float, heads: float, width: float
) -> float:
    """FLOPs of fused attention kernels on one device.

    Args:
      products: of the scores' size, of all kernels that run: 2 forward; 5 backward, or 3 and 4 in
        separate kernels for queries, and for keys and values.
      tokens: queries of each run.
      keys: that a query attends to, on average: half the length if causal.
      heads: of queries, on this device.
      width: of a head: the mean of its keys' and its values'.
    """
    return 2.0 * products * tokens * keys * heads * width
