"""The text model of a checkpoint that also reads images, video or sound.

Its config.json describes the text model in `text_config`, or, in files of Qwen2-VL, among its own
fields; its tensors are among those of the other parts. Rotary sections for images (mrope) are left
out: tokens of text have the same position in every section, and so turn as without sections.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from llmjax.convert.tensors import RenamedTensors, TensorSource
from llmjax.errors import UserError

log = logging.getLogger(__name__)

TEXT = "text_config"
PARTS = (TEXT, "vision_config", "audio_config")
"""Fields that tell such a config.json."""
EMBEDDING = "embed_tokens.weight"
HEAD = "lm_head.weight"
SAME = {
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
}
"""model_type -> that of the same text model alone."""
SECTIONS = ("mrope_section", "mrope_interleaved")
SHARED = ("torch_dtype", "dtype", "quantization_config", "vocab_size")
"""Fields of the whole that hold for its text model, if that has none of its own."""
OTHERS = ("vision", "image", "video", "audio", "spatial", "vit")
"""How names of fields about other parts begin."""


def is_multimodal(config: Mapping[str, Any]) -> bool:
    """Whether a config.json describes other parts beside a text model."""
    return any(isinstance(config.get(part), dict) for part in PARTS)


def text_config(config: Mapping[str, Any], where: object) -> dict[str, Any]:
    """The config.json of the text model alone, without `architectures`.

    Raises:
      UserError: it has no text model that could be told apart.
    """
    found = config.get(TEXT)
    if isinstance(found, dict):
        shared = {name: config[name] for name in SHARED if name in config}
        text = shared | found
    else:
        text = {name: value for name, value in config.items() if not name.startswith(OTHERS)}
    model_type = text.get("model_type")
    if not isinstance(model_type, str):
        reason = "describes a model of several kinds of data whose text model has no model_type"
        raise UserError(where, reason, "give a folder of its text model alone")
    for name in ("rope_scaling", "rope_parameters"):
        if isinstance(text.get(name), dict):
            text[name] = _without_sections(text[name])
    text.pop("architectures", None)
    return text | {"model_type": SAME.get(model_type, model_type)}


def _without_sections(rope: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in rope.items() if name not in SECTIONS}
    return {name: "default" if value == "mrope" else value for name, value in kept.items()}


class TextTensors(RenamedTensors):
    """The text model's tensors, under the names that it has alone."""

    def __init__(self, source: TensorSource, where: object):
        """Args:
          source: of the whole model.
          where: its config.json, for messages.

        Raises:
          UserError: no part has the embedding of a text model.
        """
        names = list(source.names())
        body = _body(names, where)
        renamed = {
            "model." + name.removeprefix(body): name for name in names if name.startswith(body)
        }
        if (head := next((name for name in names if name.endswith(HEAD)), None)) is not None:
            renamed[HEAD] = head
        super().__init__(source, renamed)
        self.left_out = len(names) - len(renamed)


def _body(names: Iterable[str], where: object) -> str:
    """The prefix of the text model's tensors: language_model.model., model.language_model., …"""
    found = [name.removesuffix(EMBEDDING) for name in names if name.endswith(EMBEDDING)]
    if len(found) != 1:
        reason = f"has {len(found)} tables of tokens ({EMBEDDING}) beside other kinds of data"
        raise UserError(where, reason, "give a folder of its text model alone")
    return found[0]


def text_model(
    config: Mapping[str, Any], source: TensorSource, where: object
) -> tuple[dict[str, Any], TensorSource]:
    """The config.json and the tensors of the text model alone; says what is left out.

    Args:
      config: `is_multimodal`.
      source: of the whole model.
      where: the path of its config.json.

    Raises:
      UserError: as `text_config` and `TextTensors`.
    """
    text, tensors = text_config(config, where), TextTensors(source, where)
    text["tie_word_embeddings"] = HEAD not in tensors.names()
    log.warning(
        "%s: reads only the text model (%s) of %s; %d tensors of its other parts are left out",
        where,
        text["model_type"],
        config.get("model_type"),
        tensors.left_out,
    )
    return text, tensors
