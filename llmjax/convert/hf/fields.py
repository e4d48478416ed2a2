"""Two-way mappings between fields of config.json and of ModelConfig."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, get_args

from llmjax.convert.hf.config import NO_DEFAULT, HFConfig
from llmjax.model.config import Activation as ActivationName
from llmjax.model.config import ModelConfig


class Field(Protocol):
    """A two-way mapping of some fields."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        """The fields of ModelConfig.

        Raises:
          UserError: llmjax does not support the value in config.json.
        """

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The fields of config.json. Reading them back detects what they cannot express."""


@dataclass(frozen=True)
class Renamed:
    """A number or flag with a different name in each config."""

    fields: str
    """Fields of ModelConfig that take the value, separated by spaces."""
    hf_name: str
    kind: type
    default: Any = NO_DEFAULT
    """Value if config.json lacks the field."""
    written_as: str = ""
    """Property of ModelConfig to write, for a field that may be None."""
    alias: str = ""
    """Another name that files may have for it."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        default = hf.get(self.alias, self.kind, self.default) if self.alias else self.default
        value = hf.get(self.hf_name, self.kind, default)
        return dict.fromkeys(self.fields.split(), value)

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {self.hf_name: getattr(config, self.written_as or self.fields.split()[0])}


@dataclass(frozen=True)
class Constant:
    """Fields of ModelConfig that are the same for a whole family, and not in config.json."""

    fields: Mapping[str, Any]

    def read(self, hf: HFConfig) -> dict[str, Any]:
        return dict(self.fields)

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {}


def constant(**fields: Any) -> Constant:
    """Build a `Constant` from keywords."""
    return Constant(fields)


@dataclass(frozen=True)
class Required:
    """A field of config.json that must be absent or have one of these values; writes the first."""

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
"""Transformers' names -> llmjax's; some functions have several names."""
assert set(ACTIVATIONS.values()) == set(get_args(ActivationName))


@dataclass(frozen=True)
class Activation:
    """The activation function of the MLP."""

    hf_name: str
    default: str
    tanh: str = "gelu_pytorch_tanh"
    """The name that the family uses for the tanh approximation of GELU."""

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
    """A field that is a power of one in config.json, such as 1 / sqrt(query_pre_attn_scalar)."""

    field: str
    hf_name: str
    power: float
    default: Any = NO_DEFAULT

    def read(self, hf: HFConfig) -> dict[str, Any]:
        return {self.field: hf.get(self.hf_name, (float, int), self.default) ** self.power}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        value = getattr(config, self.field)
        base = float(config.head_width) if value is None else value ** (1 / self.power)
        integer = round(base)
        return {self.hf_name: integer if integer**self.power == value else base}


@dataclass(frozen=True)
class Equal:
    """A field of config.json that must equal another one, since ModelConfig has one for both."""

    hf_name: str
    original: Renamed | Activation

    def read(self, hf: HFConfig) -> dict[str, Any]:
        if replace(self.original, hf_name=self.hf_name).read(hf) != self.original.read(hf):
            value = hf.values.get(self.hf_name)
            raise hf.error(self.hf_name, value, f"llmjax needs it equal to {self.original.hf_name}")
        return {}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return replace(self.original, hf_name=self.hf_name).write(config)


@dataclass(frozen=True)
class Tied:
    """Whether the logits use the embedding.

    Config files are unreliable here: T5 1.1's changes when Transformers 5 rewrites it. If the
    model has both tensors, they decide.
    """

    head: str
    embedding: str
    default: bool
    tied_without_head: bool = False
    """Whether a model without a separate head is tied regardless of its config."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        tied = hf.get("tie_word_embeddings", bool, self.default)
        if hf.has(self.head):
            tied = tied and (hf.equal(self.head, self.embedding) or not hf.has(self.embedding))
        elif self.tied_without_head:
            tied = True
        return {"tie_embeddings": tied}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {"tie_word_embeddings": config.tie_embeddings}


@dataclass(frozen=True)
class EncoderHead:
    """The masked-language-model head and pooler of an encoder, detected by their tensors."""

    transform: str
    """A tensor that only a masked-language-model head has."""
    pooler: str = ""
    """A tensor that only a pooler has."""
    bias_field: str = ""
    """Field of config.json: whether the logits have a bias; "" if they always do."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        head, bias = hf.has(self.transform), True
        if self.bias_field:
            bias = hf.get(self.bias_field, bool, True)
        return {
            "lm_head_transform": head,
            "lm_head_bias": head and bias,
            "pooler": bool(self.pooler) and hf.has(self.pooler),
        }

    def write(self, config: ModelConfig) -> dict[str, Any]:
        bias = config.lm_head_bias or not config.lm_head_transform
        return {self.bias_field: bias} if self.bias_field else {}
