"""The mapping between LoRA adapters of kernels and PEFT's adapters of modules.

PEFT stores A as [rank, inputs] and B as [outputs, rank], whatever the layout of the module's
matrix. A module that holds several kernels (GPT-2's c_attn) has one A and one B for all of them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llmjax.convert.hf.mapping import BoundTable
from llmjax.convert.hf.names import LAYER, Layout, NameRow, Sizes
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.model.trees import flatten
from llmjax.run.folder import Run
from llmjax.run.origin import read_origin

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""PEFT's prefix of module names."""
_WEIGHT = ".weight"


class ModulePart(NamedTuple):
    """A kernel in a module.

    Attributes:
      path: of the dense layer's parameters, such as decoder.layers.attention.query.
      layer: index in the stack.
      a: layout of A.
      b: layout of B.
    """

    path: str
    layer: int
    a: Layout
    b: Layout


@dataclass(frozen=True)
class Module:
    """A module of a published model.

    Attributes:
      name: in the family's table, such as model.layers.3.self_attn.q_proj.
      pattern: the name with {layer} for the layer.
      parts: the kernels that it holds.
      transposed: whether its matrix is [inputs, outputs].
    """

    name: str
    pattern: str
    parts: tuple[ModulePart, ...]
    transposed: bool

    def inputs(self, sizes: Sizes) -> int:
        """Columns of A."""
        return self.parts[0].a.shape({**sizes, "r": 1})[1]

    def outputs(self, sizes: Sizes) -> int:
        """Rows of B."""
        return self.parts[0].b.shape({**sizes, "r": 1})[0]


def modules_of(bound: BoundTable) -> dict[str, Module]:
    """All modules that can have an adapter, the layers' projections, by name."""
    parts: dict[str, list[ModulePart]] = {}
    rows: dict[str, tuple[str, bool]] = {}
    for path, row in bound.rows.items():
        if not path.endswith(".kernel") or LAYER not in row.tensor or ".router." in path:
            continue
        if ".experts." in path:  # PEFT adapts whole modules, and these are stacked
            continue
        a, b, transposed = _layouts(row, num_inputs=2 if path.endswith(".out.kernel") else 1)
        for layer, tensor in enumerate(bound.tensors(row)):
            if tensor is not None:
                name = tensor.removesuffix(_WEIGHT)
                part = ModulePart(path.removesuffix(".kernel"), layer, a, b)
                parts.setdefault(name, []).append(part)
                rows.setdefault(name, (row.tensor.removesuffix(_WEIGHT), transposed))
    return {
        name: Module(name, pattern, tuple(parts[name]), transposed)
        for name, (pattern, transposed) in rows.items()
    }


def adapted_layers(shape: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Path of each dense layer with an adapter -> shape of its A [layers, *inputs, rank]."""
    return {
        path.removesuffix(".lora_a"): leaf.shape
        for path, leaf in flatten(Model(shape).abstract_params())
        if path.endswith(".lora_a")
    }


def _layouts(row: NameRow, num_inputs: int) -> tuple[Layout, Layout, bool]:
    """Layouts of A and B of a kernel with `num_inputs` input axes, and whether the published matrix
    is [inputs, outputs]."""
    axes, tensor = row.layout.param_axes, row.layout.tensor_axes
    inputs, outputs = axes[:num_inputs], axes[num_inputs:]
    input_dim = next(i for i, dimension in enumerate(tensor) if inputs[0] in dimension)
    a = Layout(f"r {_notation(tensor[input_dim])} -> {' '.join(inputs)} r")
    b = Layout(f"{_notation(tensor[1 - input_dim])} r -> r {' '.join(outputs)}", row.layout.segment)
    return a, b, input_dim == 0


def _notation(axes: tuple[str, ...]) -> str:
    return f"({' '.join(axes)})" if len(axes) > 1 else axes[0]


def write_layout(layout: Layout, sizes: Sizes, param: np.ndarray) -> np.ndarray:
    """PEFT's tensor of one kernel's array, with zeros for the module's other kernels."""
    sizes = {**sizes, "r": param.shape[0 if layout.param_axes[0] == "r" else -1]}
    out = np.zeros(layout.shape(sizes), param.dtype)
    layout.write(sizes, param, out)
    return out


def read_layout(layout: Layout, sizes: Sizes, tensor: np.ndarray) -> np.ndarray:
    """One kernel's array from PEFT's tensor."""
    sizes = {**sizes, "r": tensor.shape[0 if layout.tensor_axes[0] == ("r",) else -1]}
    return layout.read(sizes, None, lambda index: tensor[index])


def is_untouched(run: Run) -> bool:
    """Whether a run is an unmodified import: not trained since, and without adapters. False if it
    no longer exists."""
    if read_origin(run.folder) is None or not run.config_path.is_file():
        return False
    config = run.config()
    return config.init_from is None and config.model.lora is None and run.steps() == [0]


def has_suffix(name: str, suffix: str) -> bool:
    """Whether a module's dotted name is `suffix` or ends in it."""
    return name == suffix or name.endswith(f".{suffix}")
