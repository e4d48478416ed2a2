"""Where low-rank adapters lie: ours beside each kernel, PEFT's beside each module of the model.

PEFT stores A as [rank, inputs] and B as [outputs, rank], whichever way the module's own matrix
lies. A module that holds several of our kernels (GPT-2's c_attn) has one A and one B for them all.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llmjax.convert.hf.mapping import BoundTable
from llmjax.convert.hf.names import LAYER, Layout, NameRow, Sizes
from llmjax.convert.params import flatten
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model

WEIGHT = ".weight"


class ModulePart(NamedTuple):
    """One of our kernels in a module.

    Attributes:
      leaf: path of the layer's dense parameters, such as decoder.layers.attention.query.
      layer: which of the stack.
      first: layout of A.
      second: layout of B.
    """

    leaf: str
    layer: int
    first: Layout
    second: Layout


@dataclass(frozen=True)
class Module:
    """A module of theirs.

    Attributes:
      name: in the family's table, such as model.layers.3.self_attn.q_proj.
      pattern: the same, with {layer}.
      parts: of our kernels, all that it holds.
      transposed: its matrix is [inputs, outputs].
    """

    name: str
    pattern: str
    parts: tuple[ModulePart, ...]
    transposed: bool

    def inputs(self, sizes: Sizes) -> int:
        """Columns of A."""
        return self.parts[0].first.shape({**sizes, "r": 1})[1]

    def outputs(self, sizes: Sizes) -> int:
        """Rows of B."""
        return self.parts[0].second.shape({**sizes, "r": 1})[0]


def modules_of(match: BoundTable) -> dict[str, Module]:
    """Every module that may have an adapter: the layers' projections, by name."""
    found: dict[str, tuple[str, list[ModulePart], bool]] = {}
    for leaf, row in match.rows.items():
        if ".layers." not in leaf or not leaf.endswith(".kernel") or LAYER not in row.name:
            continue
        first, second, transposed = _layouts(row, 2 if leaf.endswith(".out.kernel") else 1)
        for layer, name in enumerate(match.names(row)):
            if name is not None:
                part = ModulePart(leaf.removesuffix(".kernel"), layer, first, second)
                module = name.removesuffix(WEIGHT)
                pattern = row.name.removesuffix(WEIGHT)
                found.setdefault(module, (pattern, [], transposed))[1].append(part)
    return {
        name: Module(name, pattern, tuple(parts), transposed)
        for name, (pattern, parts, transposed) in found.items()
    }


def adapted_leaves(shape: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Path of each dense layer with an adapter -> shape of its A [layers, *inner, rank]."""
    flat = dict(flatten(Model(shape).abstract_params()))
    return {
        path.removesuffix(".lora_a"): leaf.shape
        for path, leaf in flat.items()
        if path.endswith(".lora_a")
    }


def _layouts(row: NameRow, inner: int) -> tuple[Layout, Layout, bool]:
    """Layouts of A and B beside a kernel that has so many axes of inputs; and whether it lies
    [inputs, outputs]."""
    ours, theirs = row.layout.param_axes, row.layout.tensor_axes
    ins, outs = ours[:inner], ours[inner:]
    at = next(number for number, axes in enumerate(theirs) if ins[0] in axes)
    first = Layout(f"r {_spelt(theirs[at])} -> {' '.join(ins)} r")
    second = Layout(f"{_spelt(theirs[1 - at])} r -> r {' '.join(outs)}", row.layout.part)
    return first, second, at == 0


def _spelt(axes: tuple[str, ...]) -> str:
    return f"({' '.join(axes)})" if len(axes) > 1 else axes[0]


def write_layout(layout: Layout, sizes: Sizes, ours: np.ndarray) -> np.ndarray:
    """Their whole tensor of one of our arrays; 0 where it holds others."""
    sizes = {**sizes, "r": ours.shape[0 if layout.param_axes[0] == "r" else -1]}
    out = np.zeros(layout.shape(sizes), ours.dtype)
    layout.write(sizes, ours, out)
    return out


def read_layout(layout: Layout, sizes: Sizes, theirs: np.ndarray) -> np.ndarray:
    """Our array, out of their whole tensor."""
    sizes = {**sizes, "r": theirs.shape[0 if layout.tensor_axes[0] == ("r",) else -1]}
    return layout.read(sizes, None, lambda index: theirs[index])
