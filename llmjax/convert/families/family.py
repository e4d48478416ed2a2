"""A family: one kind of published model, as a list of config fields and a table of names."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from llmjax.convert.hf.fields import Field, Theirs
from llmjax.convert.hf.names import NameTable, canonical
from llmjax.convert.tensors import TensorSource, same
from llmjax.errors import UserError
from llmjax.model.checks import problems
from llmjax.model.config import ModelConfig

# Fields that mean nothing unless another one has this value.
MEANINGLESS_UNLESS = {
    "rope_theta": ("positions", "rotary"),
    "window_rope_theta": ("positions", "rotary"),
    "rope_scaling": ("positions", "rotary"),
    "rotary_fraction": ("positions", "rotary"),
    "unrotated_layers": ("positions", "rotary"),
    "first_position": ("positions", "learned"),
    "relative_buckets": ("positions", "relative"),
    "relative_max_distance": ("positions", "relative"),
    "qk_norm_over": ("qk_norm", True),
}


def essence(config: ModelConfig) -> ModelConfig:
    """The config with all that is implied spelt out, and all that does not count at its default:
    two configs of one essence compute the same function of the same parameters."""
    implied: dict[str, Any] = {
        "num_kv_heads": config.kv_heads,
        "head_dim": config.head_width,
        "d_ff": config.mlp_width,
        "attention_scale": config.attention_scale or config.head_width**-0.5,
        "window_rope_theta": None,
    }
    if config.window is not None:
        implied["window_rope_theta"] = config.window_rope_theta or config.rope_theta
    default = ModelConfig()
    for name, (other, value) in MEANINGLESS_UNLESS.items():
        if getattr(config, other) != value:
            implied[name] = getattr(default, name)
    return replace(config, **implied)


@dataclass(frozen=True)
class Family:
    """How models of one `model_type` are written down."""

    model_type: str
    architecture: str
    """Class that loads a whole model."""
    fields: tuple[Field, ...]
    table: NameTable
    base_architecture: str = ""
    """Class that loads an encoder without a head; "" where there is none."""
    harmless: frozenset[str] = frozenset()
    """Fields of this family that change nothing."""

    def read_config(
        self, values: Mapping[str, Any], source: TensorSource, where: object = "config.json"
    ) -> ModelConfig:
        """The architecture that a config.json states, for the tensors of `source`.

        Raises:
          UserError: it states what llmjax cannot honour.
        """
        there = {canonical(self.table, name, ()): name for name in source.names()}
        prefix = self.table.prefix

        def actual(name: str) -> str | None:
            return there.get(name) or there.get(name.removeprefix(prefix))

        def equal(one: str, other: str) -> bool:
            first, second = actual(one), actual(other)
            return first is not None and second is not None and same(source, first, second)

        theirs = Theirs(values, lambda name: actual(name) is not None, equal, where)
        found: dict[str, Any] = {}
        for field in self.fields:
            found |= field.read(theirs)
        theirs.check_all_taken(self.harmless)
        config = ModelConfig(**found)
        if wrong := "; ".join(problems(config)):
            raise UserError(where, f"cannot be built: {wrong}")
        return config

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        """The fields of a config.json for this architecture, whether or not they say it all."""
        found: dict[str, Any] = {"model_type": self.model_type}
        for field in self.fields:
            found |= field.write(config)
        is_base = self.base_architecture and not config.unembed_transform
        found["architectures"] = [self.base_architecture if is_base else self.architecture]
        return found

    def obstacles(self, config: ModelConfig) -> list[str]:
        """Fields of an architecture that this family cannot state; empty where it fits."""
        wanted = essence(config)
        try:
            found = essence(self.read_config(self.write_config(config), NamesOf(self, config)))
        except (UserError, TypeError, ValueError, ZeroDivisionError) as error:
            return [str(error)]
        names = (field.name for field in fields(ModelConfig))
        return [name for name in names if getattr(wanted, name) != getattr(found, name)]


class NamesOf:
    """The names that a model of this family would have, to read its config back with."""

    def __init__(self, family: Family, config: ModelConfig):
        here = {
            "unembedding": not config.tie_embeddings,
            "unembedding_bias": config.unembed_bias,
            "transform": config.unembed_transform,
            "pooler": config.pooler,
        }
        self._names = [
            row.name for row in family.table.rows if here.get(row.leaf.split(".")[0], True)
        ]

    def names(self) -> list[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return (self._names.index(name),)  # no two are the same

    def dtype(self, name: str) -> Any:
        raise NotImplementedError

    def read(self, name: str, index: Any = None) -> Any:
        raise NotImplementedError
