"""Fields of a config.json and of ModelConfig: declared once, read and written."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, get_args

from llmjax.convert.hf.config import NO_DEFAULT, HFConfig
from llmjax.model.config import Activation as ActivationName
from llmjax.model.config import ModelConfig


class Field(Protocol):
    """A part of a config, in both directions."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        """Fields of ModelConfig.

        Raises:
          UserError: llmjax does not support what the config.json states.
        """

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """Fields of config.json. What they cannot express shows when they are read back."""


@dataclass(frozen=True)
class Renamed:
    """A number or switch under two names."""

    fields: str
    """Of ModelConfig, separated by spaces: all have this value."""
    hf_name: str
    kind: type
    default: Any = NO_DEFAULT
    """Where config.json does not have it."""
    written_as: str = ""
    """Property of ModelConfig to write instead of a field that may be None."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        value = hf.get(self.hf_name, self.kind, self.default)
        return dict.fromkeys(self.fields.split(), value)

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {self.hf_name: getattr(config, self.written_as or self.fields.split()[0])}


@dataclass(frozen=True)
class Constant:
    """What holds for every model of a family and is in no config.json."""

    fields: Mapping[str, Any]

    def read(self, hf: HFConfig) -> dict[str, Any]:
        return dict(self.fields)

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {}


def constant(**fields: Any) -> Constant:
    """`Constant` with names as keywords."""
    return Constant(fields)


@dataclass(frozen=True)
class Required:
    """A field of config.json that must have one of these values, or be absent; writes the first."""

    hf_name: str
    values: tuple[Any, ...]

    def read(self, hf: HFConfig) -> dict[str, Any]:
        hf.names_read.add(self.hf_name)
        value = hf.values.get(self.hf_name)
        if value is not None and value not in self.values:
            supported = " or ".join(map(repr, self.values))
            raise hf.error(self.hf_name, value, f"only {supported} is supported")
        return {}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {self.hf_name: self.values[0]}


ACTIVATIONS: dict[str, ActivationName] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}
"""Transformers' names -> ours; several are the same function."""
assert set(ACTIVATIONS.values()) == set(get_args(ActivationName))


@dataclass(frozen=True)
class Activation:
    """The MLP's nonlinearity."""

    hf_name: str
    default: str
    tanh: str = "gelu_pytorch_tanh"
    """The family's name for GELU's tanh approximation."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        name = hf.get(self.hf_name, str, self.default)
        if name not in ACTIVATIONS:
            raise hf.error(self.hf_name, name, f"supported are {', '.join(ACTIVATIONS)}")
        return {"activation": ACTIVATIONS[name]}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        name = config.activation
        return {self.hf_name: self.tanh if name == "gelu_tanh" else name}


@dataclass(frozen=True)
class Power:
    """A field that is a power of config.json's, as 1 / sqrt(query_pre_attn_scalar)."""

    field: str
    hf_name: str
    power: float
    default: Any = NO_DEFAULT

    def read(self, hf: HFConfig) -> dict[str, Any]:
        return {self.field: hf.get(self.hf_name, (float, int), self.default) ** self.power}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        value = getattr(config, self.field)
        base = float(config.head_width) if value is None else value ** (1 / self.power)
        whole = round(base)
        return {self.hf_name: whole if whole**self.power == value else base}


@dataclass(frozen=True)
class Equal:
    """A field of config.json that must equal another one, as ModelConfig has one for both."""

    hf_name: str
    other: Renamed | Activation

    def read(self, hf: HFConfig) -> dict[str, Any]:
        if replace(self.other, hf_name=self.hf_name).read(hf) != self.other.read(hf):
            value = hf.values.get(self.hf_name)
            raise hf.error(self.hf_name, value, f"llmjax needs it equal to {self.other.hf_name}")
        return {}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return replace(self.other, hf_name=self.hf_name).write(config)


@dataclass(frozen=True)
class Tied:
    """Whether the logits use the embedding.

    Config files are unreliable here: those of T5 1.1 state one thing, and another after
    Transformers 5 has written them. Where both tensors exist, they decide.
    """

    head: str
    embedding: str
    default: bool
    always_where_alone: bool = False
    """A model without a head of its own is tied, whatever its config states."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        tied = hf.get("tie_word_embeddings", bool, self.default)
        if hf.has(self.head):
            tied = tied and (hf.equal(self.head, self.embedding) or not hf.has(self.embedding))
        elif self.always_where_alone:
            tied = True
        return {"tie_embeddings": tied}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {"tie_word_embeddings": config.tie_embeddings}


@dataclass(frozen=True)
class EncoderHead:
    """What an encoder has on top, as its tensors show: a masked-word head, a pooler."""

    transform: str
    """A tensor that only a masked-word head has."""
    pooler: str = ""
    """A tensor that only a pooler has."""
    bias_field: str = ""
    """Of config.json: whether the logits have a bias; "" where they always do."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        head, bias = hf.has(self.transform), True
        if self.bias_field:
            bias = hf.get(self.bias_field, bool, True)
        return {
            "unembed_transform": head,
            "unembed_bias": head and bias,
            "pooler": bool(self.pooler) and hf.has(self.pooler),
        }

    def write(self, config: ModelConfig) -> dict[str, Any]:
        bias = config.unembed_bias or not config.unembed_transform
        return {self.bias_field: bias} if self.bias_field else {}
