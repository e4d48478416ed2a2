"""The families of published models, as data."""

from collections.abc import Mapping
from typing import Any

from llmjax.convert.families.bert import BERT, DISTILBERT, MODERNBERT, ROBERTA, XLM_ROBERTA
from llmjax.convert.families.family import Family, essence
from llmjax.convert.families.gpt import GPT2, GPT_NEOX, PHI3
from llmjax.convert.families.llama import (
    GEMMA,
    GEMMA2,
    GEMMA3,
    LLAMA,
    MISTRAL,
    OLMO2,
    QWEN2,
    QWEN3,
    SMOLLM3,
)
from llmjax.convert.families.t5 import MT5, T5
from llmjax.convert.hf.fields import shortened
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig

__all__ = ["FAMILIES", "Family", "essence", "family_for", "family_of"]

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        LLAMA,
        QWEN3,
        QWEN2,
        MISTRAL,
        GPT2,
        SMOLLM3,
        OLMO2,
        GEMMA,
        GEMMA2,
        GEMMA3,
        PHI3,
        GPT_NEOX,
        BERT,
        ROBERTA,
        XLM_ROBERTA,
        DISTILBERT,
        MODERNBERT,
        T5,
        MT5,
    )
}
"""model_type -> family. A model of ours is exported as the first that can state it: those that most
programs read come first."""


def family_of(values: Mapping[str, Any], where: object = "config.json") -> Family:
    """The family of a config.json.

    Raises:
      UserError: it is not a supported one.
    """
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UserError(
            where,
            f"model_type {shortened(repr(model_type))} is not supported",
            f"supported are {', '.join(sorted(FAMILIES))}",
        )
    return FAMILIES[model_type]


def family_for(config: ModelConfig, preferred: str | None = None) -> Family:
    """A family that states an architecture exactly.

    Args:
      config: the architecture.
      preferred: model_type to try first.

    Raises:
      UserError: there is none; names the fields in the way, for the family that comes closest.
    """
    order = sorted(FAMILIES.values(), key=lambda family: family.model_type != preferred)
    found = {family.model_type: family.obstacles(config) for family in order}
    for family in order:
        if not found[family.model_type]:
            return family
    closest, fields = min(found.items(), key=lambda item: len(item[1]))
    raise UserError(
        "model",
        f"no published family has this architecture; the closest, {closest}, does not have its "
        + ", ".join(fields),
        "the StableHLO export takes any model",
    )
