"""A tokenizer as the files that Transformers, and who reads the same files, load."""

import json
from pathlib import Path
from typing import Any

from llmjax.convert.hf.tokenizer_spec import bytes_spec, sentencepiece_spec
from llmjax.data.tokenizers.folder import CHAT_TEMPLATE
from llmjax.data.tokenizers.huggingface.file import TOKENIZER_FILE
from llmjax.data.tokenizers.huggingface.tokenizer import HuggingFaceTokenizer
from llmjax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError

# Kinds of model whose first and last token are called CLS and SEP.
CLASSIFIERS = ("bert", "distilbert", "roberta", "xlm-roberta", "modernbert")
# Kinds of model that read segment types.
TYPED = ("bert",)


def export_tokenizer(
    tokenizer: Tokenizer,
    folder: Path,
    *,
    max_length: int,
    chat_template: str | None = None,
    model_kind: str = "llama",
) -> None:
    """Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json and the chat template.

    An imported tokenizer.json is written as it came; ids are the same on every text.

    Args:
      tokenizer: any of ours.
      folder: exists.
      max_length: tokens that the model takes.
      chat_template: None for the tokenizer's own, if it has one.
      model_kind: the model_type of the config.json beside them.

    Raises:
      UserError: there is no such form of this tokenizer.
    """
    content = tokenizer_json(tokenizer)
    names = _names(tokenizer, json.loads(content), model_kind)
    inputs = ["input_ids", *(["token_type_ids"] if model_kind in TYPED else []), "attention_mask"]
    settings = {
        **names,
        "clean_up_tokenization_spaces": False,
        "model_input_names": inputs,
        "model_max_length": max_length,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    template = tokenizer.chat_template if chat_template is None else chat_template
    if template is not None:
        settings["chat_template"] = template  # for readers that do not know the file
        (folder / CHAT_TEMPLATE).write_text(template, encoding="utf-8")
    (folder / TOKENIZER_FILE).write_bytes(content)
    _write(folder / "tokenizer_config.json", settings)
    _write(folder / "special_tokens_map.json", names)


def tokenizer_json(tokenizer: Tokenizer) -> bytes:
    """The content of an equivalent tokenizer.json.

    Raises:
      UserError: there is none.
    """
    match tokenizer:
        case HuggingFaceTokenizer():
            return tokenizer.content
        case SentencePieceTokenizer():
            spec = sentencepiece_spec(tokenizer)
        case BytesTokenizer():
            spec = bytes_spec(tokenizer)
        case _:
            kind = type(tokenizer).__name__
            raise UserError(f"tokenizer {kind}", "has no form as a tokenizer.json")
    return (json.dumps(spec, ensure_ascii=False, indent=1) + "\n").encode()


def _names(tokenizer: Tokenizer, spec: dict[str, Any], model_kind: str) -> dict[str, str]:
    """bos_token and the like, by the names that the model's kind has for them."""
    spelt = {token: name for name, token in tokenizer.special_tokens.items()}
    bos, eos = spelt[tokenizer.bos_id], spelt[tokenizer.eos_id]
    found = {"eos_token": eos, "pad_token": spelt[tokenizer.pad_id]}
    if tokenizer.bos_id != tokenizer.pad_id or tokenizer.bos_id == tokenizer.eos_id:
        found = {"bos_token": bos} | found
    if model_kind in CLASSIFIERS:
        found |= {"cls_token": bos, "sep_token": eos}
    if tokenizer.mask_id is not None:
        found["mask_token"] = spelt[tokenizer.mask_id]
    unknown = _unknown(spec["model"])
    return found if unknown is None else found | {"unk_token": unknown}


def _unknown(model: dict[str, Any]) -> str | None:
    if model.get("type") == "Unigram" and model.get("unk_id") is not None:
        return str(model["vocab"][model["unk_id"]][0])
    token = model.get("unk_token")
    return None if token is None else str(token)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
