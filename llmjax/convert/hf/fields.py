"""Fields of a config.json and of ModelConfig: each is stated once, and read and written from that.

What is not stated is refused by name, unless it cannot change a number.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, get_args

from llmjax.convert.hf.config import number_problem
from llmjax.errors import UserError
from llmjax.model.config import Activation as ActivationName
from llmjax.model.config import ModelConfig

REQUIRED: Any = object()
SHOWN = 60
"""Letters of a file's own words that a message has."""

HARMLESS = frozenset(
    """
    architectures auto_map model_type transformers_version torch_dtype dtype _name_or_path
    name_or_path tokenizer_class use_cache cache_implementation is_encoder_decoder
    bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id unk_token_id mask_token_id
    decoder_start_token_id forced_bos_token_id forced_eos_token_id suppress_tokens
    begin_suppress_tokens prefix bad_words_ids task_specific_params finetuning_task
    id2label label2id num_labels _num_labels problem_type classifier_pooling
    return_dict output_hidden_states output_attentions output_past use_return_dict
    initializer_range initializer_factor initializer_cutoff_factor gradient_checkpointing
    attn_implementation _attn_implementation _attn_implementation_autoset _flash_attn_2_enabled
    pretraining_tp chunk_size_feed_forward torchscript use_bfloat16 onnx_export
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size num_return_sequences output_scores return_dict_in_generate
    exponential_decay_length_penalty remove_invalid_values transformers.js_config
    tie_last_hidden_states transformers_weights unsloth_fixed unsloth_version llmjax_version
    """.split()
)
"""Fields of every family that do not change a forward pass in inference."""


def is_harmless(name: str, value: Any) -> bool:
    """Whether a field changes nothing: known ones, what is off or empty, and rates of dropout."""
    return name in HARMLESS or not value or "dropout" in name or name.endswith("pdrop")


@dataclass
class Theirs:
    """A config.json that is being read: notes what was asked for.

    Attributes:
      values: its fields.
      has: whether the model's files hold a tensor of this name, whatever it begins with.
      equal: whether two tensors are there, and are the same.
      where: its path, for messages.
    """

    values: Mapping[str, Any]
    has: Callable[[str], bool] = lambda name: False
    equal: Callable[[str, str], bool] = lambda one, other: False
    where: object = "config.json"
    taken: set[str] = field(default_factory=set)

    def take(self, name: str, kind: type | tuple[type, ...], default: Any = REQUIRED) -> Any:
        """A field's value; null counts as absent.

        Raises:
          UserError: it is missing, or of another type.
        """
        self.taken.add(name)
        value = self.values.get(name)
        if value is None:
            if default is REQUIRED:
                raise UserError(self.where, f"has no {name}", "it is not the config of this family")
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if float in kinds and int not in kinds and type(value) is int:
            value = as_float(value)
        if type(value) not in kinds:
            names = " or ".join(one.__name__ for one in kinds)
            raise self.refusal(name, value, f"it must be {names}")
        if type(value) in (int, float) and (wrong := number_problem(name, value)):
            raise self.refusal(name, value, wrong)
        return value

    def refusal(self, name: str, value: Any, why: str) -> UserError:
        """The error for a field that cannot be honoured."""
        return UserError(self.where, f"{shortened(name)} is {shortened(repr(value))}: {why}")

    def check_all_taken(self, harmless: frozenset[str]) -> None:
        """Raises:
        UserError: fields are left that could change a number.
        """
        for name, value in self.values.items():
            if name not in self.taken and name not in harmless and not is_harmless(name, value):
                raise self.refusal(
                    name, value, "llmjax does not know this field, or not this value"
                )


def shortened(text: str) -> str:
    """A word of a file, for a message."""
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def as_float(value: int | float) -> float:
    """The nearest float; infinity where there is none."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


class Field(Protocol):
    """A piece of a config, in both directions."""

    def read(self, theirs: Theirs) -> dict[str, Any]:
        """Fields of ModelConfig.

        Raises:
          UserError: theirs cannot be honoured.
        """

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """Fields of config.json; what they cannot say is found when they are read back."""


@dataclass(frozen=True)
class Same:
    """One number or switch under two names; where ours are several, all have this value."""

    ours: str
    theirs: str
    kind: type
    default: Any = REQUIRED
    """What it is where config.json does not say."""
    derived: str = ""
    """Property of ModelConfig to write instead, for a field of ours that may be None."""

    def read(self, theirs: Theirs) -> dict[str, Any]:
        value = theirs.take(self.theirs, self.kind, self.default)
        return dict.fromkeys(self.ours.split(), value)

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {self.theirs: getattr(config, self.derived or self.ours.split()[0])}


@dataclass(frozen=True)
class Fixed:
    """What is so in every model of a family, and is said nowhere."""

    ours: Mapping[str, Any]

    def read(self, theirs: Theirs) -> dict[str, Any]:
        return dict(self.ours)

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {}


def fixed(**ours: Any) -> Fixed:
    """`Fixed` with names as keywords."""
    return Fixed(ours)


@dataclass(frozen=True)
class Must:
    """A field of theirs that is accepted with these values alone (or absent); writes the first."""

    theirs: str
    values: tuple[Any, ...]

    def read(self, theirs: Theirs) -> dict[str, Any]:
        theirs.taken.add(self.theirs)
        value = theirs.values.get(self.theirs)
        if value is not None and value not in self.values:
            known = " or ".join(map(repr, self.values))
            raise theirs.refusal(self.theirs, value, f"only {known} can be honoured")
        return {}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {self.theirs: self.values[0]}


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
assert set(ACTIVATIONS.values()) == set(get_args(ActivationName))


@dataclass(frozen=True)
class Activation:
    """The MLP's nonlinearity. Theirs are names of functions; several are the same function."""

    theirs: str
    default: str
    tanh: str = "gelu_pytorch_tanh"
    """How this family spells the approximation of GELU by tanh."""

    def read(self, theirs: Theirs) -> dict[str, Any]:
        name = theirs.take(self.theirs, str, self.default)
        if name not in ACTIVATIONS:
            raise theirs.refusal(self.theirs, name, f"known are {', '.join(ACTIVATIONS)}")
        return {"activation": ACTIVATIONS[name]}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        name = config.activation
        return {self.theirs: self.tanh if name == "gelu_tanh" else name}


@dataclass(frozen=True)
class Power:
    """Ours is a power of theirs, as 1 / sqrt(query_pre_attn_scalar)."""

    ours: str
    theirs: str
    power: float
    default: Any = REQUIRED

    def read(self, theirs: Theirs) -> dict[str, Any]:
        value = theirs.take(self.theirs, (float, int), self.default)
        return {self.ours: value**self.power}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        value = getattr(config, self.ours)
        value = float(config.head_width) if value is None else value ** (1 / self.power)
        whole = round(value)
        return {self.theirs: whole if whole**self.power == getattr(config, self.ours) else value}


@dataclass(frozen=True)
class Agree:
    """A field of theirs that must say the same as another, as we have one field for both."""

    theirs: str
    other: Same | Activation

    def read(self, theirs: Theirs) -> dict[str, Any]:
        if replace(self.other, theirs=self.theirs).read(theirs) != self.other.read(theirs):
            value = theirs.values.get(self.theirs)
            why = f"llmjax can only have it equal to {self.other.theirs}"
            raise theirs.refusal(self.theirs, value, why)
        return {}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return replace(self.other, theirs=self.theirs).write(config)


@dataclass(frozen=True)
class Tied:
    """Whether the logits use the embedding.

    Config files are not to be relied upon here: those of T5 1.1 say one thing, and another after
    Transformers 5 has written them. Where both tensors are there, they decide.
    """

    head: str
    embedding: str
    default: bool
    always_where_alone: bool = False
    """A model without a head of its own is tied, whatever its config says."""

    def read(self, theirs: Theirs) -> dict[str, Any]:
        said = theirs.take("tie_word_embeddings", bool, self.default)
        if theirs.has(self.head):
            said = said and (
                theirs.equal(self.head, self.embedding) or not theirs.has(self.embedding)
            )
        elif self.always_where_alone:
            said = True
        return {"tie_embeddings": said}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {"tie_word_embeddings": config.tie_embeddings}


@dataclass(frozen=True)
class Head:
    """What an encoder has on top, as its tensors show: a masked-word head, a pooler."""

    transform: str
    """A tensor that only a masked-word head has."""
    pooler: str = ""
    """A tensor that only a pooler has."""
    bias_field: str = ""
    """A field that says whether the logits have a bias; "" where they always do."""

    def read(self, theirs: Theirs) -> dict[str, Any]:
        head, bias = theirs.has(self.transform), True
        if self.bias_field:
            bias = theirs.take(self.bias_field, bool, True)
        return {
            "unembed_transform": head,
            "unembed_bias": head and bias,
            "pooler": bool(self.pooler) and theirs.has(self.pooler),
        }

    def write(self, config: ModelConfig) -> dict[str, Any]:
        bias = config.unembed_bias or not config.unembed_transform
        return {self.bias_field: bias} if self.bias_field else {}
