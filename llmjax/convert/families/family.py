"""A family: models of one `model_type`, described by config fields and a name table."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from llmjax.convert.hf.config import HFConfig
from llmjax.convert.hf.fields import Field
from llmjax.convert.hf.names import FURTHER, Layout, NameRow, NameTable
from llmjax.convert.tensors import TensorSource, equal_tensors
from llmjax.errors import UserError
from llmjax.model.checks import problems
from llmjax.model.config import ModelConfig
from llmjax.model.moe_config import MoEConfig
from llmjax.model.rope import LongRopeScaling
from llmjax.tasks.heads import Neck

STACK = "multi_token.stack.layers"
"""Where the layer for tokens after next is among parameters."""
NO_EFFECT_UNLESS = {
    "rope_theta": ("positions", "rotary"),
    "window_rope_theta": ("positions", "rotary"),
    "rope_scaling": ("positions", "rotary"),
    "rotary_fraction": ("positions", "rotary"),
    "unrotated_layers": ("positions", "rotary"),
    "first_position": ("positions", "learned"),
    "relative_buckets": ("positions", "relative"),
    "relative_max_distance": ("positions", "relative"),
    "query_growth": ("positions", "rotary"),
    "qk_norm_over": ("qk_norm", True),
    "qk_norm_kind": ("qk_norm", True),
}
"""Field of ModelConfig -> (other field, value): no effect unless the other has this value."""

HeadKind = Literal["SequenceClassification", "TokenClassification", "QuestionAnswering"]
"""Suffix of Transformers' task classes: per text, per token, start and end of an answer."""


@dataclass(frozen=True)
class TaskClass:
    """A Transformers task class: the structure and names of its head.

    Attributes:
      architecture: the class.
      out: name of the output projection.
      necks: the llmjax necks that compute the same input to it.
      bias: whether the output projection has a bias.
      dense: name of the projection in the neck, if it has one.
      body: prefix of the body's names; None for the family's.
    """

    architecture: str
    out: str
    necks: tuple[Neck, ...] = ("none",)
    bias: bool = True
    dense: str = ""
    body: str | None = None

    @property
    def pools(self) -> bool:
        """Whether `dense` belongs to the body in Transformers."""
        return self.dense.endswith("pooler.dense")

    def rows(self) -> tuple[NameRow, ...]:
        """Name rows of the head's parameters, under "head"."""
        rows = [NameRow("head.out.kernel", f"{self.out}.weight", Layout("o d -> d o"))]
        if self.bias:
            rows.append(NameRow("head.out.bias", f"{self.out}.bias", Layout("o -> o")))
        if self.dense:
            rows += [
                NameRow("head.dense.kernel", f"{self.dense}.weight", Layout("d e -> e d")),
                NameRow("head.dense.bias", f"{self.dense}.bias", Layout("d -> d")),
            ]
        return tuple(rows)

    def name(self, table: NameTable, name: str) -> str:
        """The name that a tensor of the family's table has in this class."""
        if self.body is None or not name.startswith(table.prefix):
            return name
        return self.body + name.removeprefix(table.prefix)


@dataclass(frozen=True)
class Family:
    """How models of one `model_type` are published."""

    model_type: str
    architecture: str
    """Class of the complete model."""
    fields: tuple[Field, ...]
    table: NameTable
    base_architecture: str = ""
    """Class of the encoder without a head; "" if there is none."""
    ignored: frozenset[str] = frozenset()
    """Fields of config.json that have no effect in this family."""
    task_classes: Mapping[HeadKind, TaskClass] = field(default_factory=dict)
    """Empty for encoder-decoders."""
    examples: Mapping[str, str] = field(default_factory=dict)
    """Well-known models: name on the Hugging Face hub -> number of parameters, for people."""

    def read_config(
        self, values: Mapping[str, Any], source: TensorSource, where: object = "config.json"
    ) -> ModelConfig:
        """The architecture described by a config.json and the tensors of `source`.

        Raises:
          UserError: llmjax does not support it.
        """
        names = {self.table.name(name, ()): name for name in source.names()}
        prefix = self.table.prefix

        def actual(name: str) -> str | None:
            return names.get(name) or names.get(name.removeprefix(prefix))

        def equal(first: str, second: str) -> bool:
            pair = actual(first), actual(second)
            return None not in pair and equal_tensors(source, *map(str, pair))

        hf = HFConfig(values, lambda name: actual(name) is not None, equal, where)
        config_fields: dict[str, Any] = {}
        for part in self.fields:
            config_fields |= part.read(hf)
        hf.check_no_others(self.ignored)
        config = ModelConfig(**config_fields)
        if wrong := "; ".join(problems(config)):
            raise UserError(where, f"describes a model that cannot be built: {wrong}")
        return config

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        """The config.json of an architecture, as far as the family can express it."""
        values: dict[str, Any] = {"model_type": self.model_type}
        for part in self.fields:
            values |= part.write(config)
        is_base = self.base_architecture and not config.lm_head_transform
        values["architectures"] = [self.base_architecture if is_base else self.architecture]
        return values

    def unsupported(self, config: ModelConfig) -> list[str]:
        """The fields of an architecture that this family cannot express."""
        expected = canonical(config)
        try:
            written = self.read_config(self.write_config(config), TensorNames(self, config))
        except (UserError, TypeError, ValueError, ZeroDivisionError) as error:
            return [str(error)]
        names = (field.name for field in fields(ModelConfig))
        read = canonical(written)
        return [name for name in names if getattr(expected, name) != getattr(read, name)]


class TensorNames:
    """A `TensorSource` with only the names of a model's tensors, for reading a config back."""

    def __init__(self, family: Family, config: ModelConfig):
        exists = {
            "unembedding": not config.tie_embeddings,
            "unembedding_bias": config.lm_head_bias,
            "transform": config.lm_head_transform,
            "pooler": config.pooler,
            "multi_token": config.multi_token,
        }
        number = str(config.num_decoder_layers)
        self._names = [
            row.tensor.replace(FURTHER, number)
            for row in family.table.rows
            if exists.get(row.param.split(".")[0], True)
            and (config.multi_token_experts or not row.param.startswith(f"{STACK}.mlp.router"))
        ]

    def names(self) -> list[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return (self._names.index(name),)  # unique, so no two tensors compare equal

    def dtype(self, name: str) -> Any:
        raise NotImplementedError

    def read(self, name: str, index: Any = None) -> Any:
        raise NotImplementedError


def canonical_moe(moe: MoEConfig, width: int) -> MoEConfig:
    """As `canonical`, also without what only training uses.

    Args:
      moe: the config.
      width: inner width of its experts.
    """
    default = MoEConfig()
    unused = ["balance_loss", "z_loss", "bias_update_rate", "capacity_factor"]
    unused += ["groups_per_token", "group_score"] if moe.groups == 1 else []
    unused += ["jitter"] if moe.scores != "sparsemixer" else []
    implied = {name: getattr(default, name) for name in unused}
    return replace(moe, expert_width=width, **implied)


def canonical(config: ModelConfig) -> ModelConfig:
    """Make implied values explicit and reset fields without effect to their defaults.

    Configs that compute the same function of the same parameters have equal canonical forms.
    """
    implied: dict[str, Any] = {
        "num_kv_heads": config.kv_heads,
        "head_dim": config.head_width if config.mla is None else None,
        "d_ff": config.mlp_width,
        "moe": None if config.moe is None else canonical_moe(config.moe, config.expert_width),
        "attention_scale": config.attention_scale or config.head_width**-0.5,
        "window_rope_theta": None,
    }
    if isinstance(config.rope_scaling, LongRopeScaling):  # of runs older than the field
        implied["rope_scaling"] = replace(config.rope_scaling, by_length=True)
    if config.window is not None:
        implied["window_rope_theta"] = config.window_rope_theta or config.rope_theta
    default = ModelConfig()
    if not config.query_growth or not config.unrotated_layers:
        implied |= {"query_growth": 0.0, "query_growth_length": default.query_growth_length}
    for name, (condition, value) in NO_EFFECT_UNLESS.items():
        if getattr(config, condition) != value:
            implied[name] = getattr(default, name)
    return replace(config, **implied)
