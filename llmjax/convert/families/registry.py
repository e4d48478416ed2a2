"""The families of published models, by model_type. To add one, add its file and a line here."""

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from llmjax.convert.families.family import Family
from llmjax.convert.families.parts import missing_parts
from llmjax.convert.hf.config import shortened
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.model.moe_config import MoEConfig
from llmjax.registry import Registry

_REGISTRY: Registry[Family] = Registry(
    "model_type",
    {
        "llama": "llmjax.convert.families.llama:LLAMA",
        "qwen3": "llmjax.convert.families.llama:QWEN3",
        "qwen2": "llmjax.convert.families.llama:QWEN2",
        "mistral": "llmjax.convert.families.llama:MISTRAL",
        "gpt2": "llmjax.convert.families.gpt:GPT2",
        "smollm3": "llmjax.convert.families.llama:SMOLLM3",
        "olmo2": "llmjax.convert.families.llama:OLMO2",
        "granite": "llmjax.convert.families.llama:GRANITE",
        "internlm3": "llmjax.convert.families.llama:INTERNLM3",
        "starcoder2": "llmjax.convert.families.gpt:STARCODER2",
        "cohere": "llmjax.convert.families.cohere:COHERE",
        "cohere2": "llmjax.convert.families.cohere:COHERE2",
        "mixtral": "llmjax.convert.families.moe:MIXTRAL",
        "phimoe": "llmjax.convert.families.moe:PHIMOE",
        "qwen3_moe": "llmjax.convert.families.moe:QWEN3_MOE",
        "qwen3_next": "llmjax.convert.families.qwen_next:QWEN3_NEXT",
        "qwen2_moe": "llmjax.convert.families.moe:QWEN2_MOE",
        "olmoe": "llmjax.convert.families.moe:OLMOE",
        "glm4_moe": "llmjax.convert.families.moe:GLM4_MOE",
        "granitemoe": "llmjax.convert.families.moe:GRANITE_MOE",
        "gpt_oss": "llmjax.convert.families.moe:GPT_OSS",
        "llama4_text": "llmjax.convert.families.llama4:LLAMA4",
        "gemma": "llmjax.convert.families.llama:GEMMA",
        "gemma2": "llmjax.convert.families.llama:GEMMA2",
        "gemma3_text": "llmjax.convert.families.llama:GEMMA3",
        "phi3": "llmjax.convert.families.gpt:PHI3",
        "deepseek_v3": "llmjax.convert.families.deepseek:DEEPSEEK_V3",
        "deepseek_v2": "llmjax.convert.families.deepseek:DEEPSEEK_V2",
        "gpt_neox": "llmjax.convert.families.gpt:GPT_NEOX",
        "bert": "llmjax.convert.families.bert:BERT",
        "roberta": "llmjax.convert.families.bert:ROBERTA",
        "xlm-roberta": "llmjax.convert.families.bert:XLM_ROBERTA",
        "distilbert": "llmjax.convert.families.bert:DISTILBERT",
        "modernbert": "llmjax.convert.families.bert:MODERNBERT",
        "t5": "llmjax.convert.families.t5:T5",
        "mt5": "llmjax.convert.families.t5:MT5",
    },
)
FAMILIES = cast("Mapping[str, Family]", _REGISTRY)  # its values are instances
"""model_type -> family. A model is exported as the first family that can express it; the most
widely supported ones come first."""


def family_of(values: Mapping[str, Any], where: object = "config.json") -> Family:
    """The family of a config.json.

    Raises:
      UserError: it is not supported.
    """
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        reason = f"model_type {shortened(repr(model_type))} is not supported"
        if isinstance(model_type, str):
            reason += f": {missing_parts(values, _known_fields())}"
        raise UserError(where, reason, f"supported are {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]


@cache
def _known_fields() -> frozenset[str]:
    """The fields of config.json that some family reads or ignores."""
    names = {"rope_parameters"}
    for family in FAMILIES.values():
        names |= family.ignored
        for moe in (None, MoEConfig()):
            names |= family.write_config(ModelConfig(vocab_size=8, moe=moe)).keys()
    return frozenset(names)


def family_for(config: ModelConfig, preferred: str | None = None) -> Family:
    """The first family that expresses an architecture exactly.

    Args:
      config: the architecture.
      preferred: model_type to try first.

    Raises:
      UserError: no family does; names the fields that the closest one does not support.
    """
    unsupported: dict[str, list[str]] = {}
    for model_type in sorted(FAMILIES, key=lambda name: name != preferred):
        family = FAMILIES[model_type]
        unsupported[model_type] = family.unsupported(config)
        if not unsupported[model_type]:
            return family
    closest, fields = min(unsupported.items(), key=lambda item: len(item[1]))
    raise UserError(
        "model",
        f"no published family has this architecture; the closest, {closest}, does not support "
        + ", ".join(fields),
        "export it --to stablehlo, which supports any model",
    )
