"""A tokenizer as the files that Transformers, and who reads the same files, load."""

import json
import re
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import processors as post

from llmjax.data.tokenizers import sentencepiece_import as spm
from llmjax.data.tokenizers.huggingface.pieces import byte_level_table
from llmjax.data.tokenizers.huggingface.tokenizer import TOKENIZER_FILE, HuggingFaceTokenizer
from llmjax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from llmjax.data.tokenizers.table import CHAT_TEMPLATE, BytesTokenizer, TableTokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError

NEVER = 1e6  # nats: no text is spelt with a piece that costs so much


def bytes_spec(tokenizer: BytesTokenizer) -> dict[str, Any]:
    """Byte-level BPE that merges nothing."""
    letters = {value[0]: letter for letter, value in byte_level_table().items()}
    vocab = {letters[byte]: byte for byte in range(256)} | tokenizer.special_tokens
    inner = tokenizers.Tokenizer(models.BPE(vocab, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return _finished(inner, tokenizer)


def sentencepiece_spec(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    """The model's pieces and merges, spaces written as such.

    So U+2581 is no piece and falls back to bytes by itself, as it does here. A model that was
    trained elsewhere and changes text before it encodes keeps its own way.
    """
    proto = spm.parse(tokenizer.model, "SentencePiece model")
    spec = proto.normalizer_spec
    changes = spec.add_dummy_prefix or spec.remove_extra_whitespaces or spec.precompiled_charsmap
    if changes or not proto.trainer_spec.byte_fallback:
        inner = spm.convert(proto)
    else:
        inner = tokenizers.Tokenizer(_lossless(proto))
        inner.pre_tokenizer = _apart(proto)
        inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return _finished(inner, tokenizer)


def _lossless(proto: Any) -> models.Model:
    pieces = [(piece.piece.replace(spm.SPACE, " "), piece.score) for piece in proto.pieces]
    spelt = [piece.type in (spm.NORMAL, spm.USER) for piece in proto.pieces]
    unknown = proto.trainer_spec.unk_id
    if proto.trainer_spec.model_type == spm.UNIGRAM:
        # Bytes and special tokens have entries too, which a text that spells them must not meet.
        scored = [
            (piece, score if found else -NEVER)
            for (piece, score), found in zip(pieces, spelt, strict=True)
        ]
        return models.Unigram(scored, unk_id=unknown, byte_fallback=True)
    joined = {piece: score for (piece, score), found in zip(pieces, spelt, strict=True) if found}
    vocab = {piece: number for number, (piece, _) in enumerate(pieces)}
    merges = spm.merges_of(joined)
    return models.BPE(vocab, merges, unk_token=pieces[unknown][0], byte_fallback=True)


def _apart(proto: Any) -> pre_tokenizers.PreTokenizer | None:
    """Cuts a unigram model's text around characters that only special entries have.

    An unknown character costs more than any entry, so "<s>" would be met where "<" is unknown.
    """
    if proto.trainer_spec.model_type != spm.UNIGRAM:
        return None
    known = {piece.piece for piece in proto.pieces if piece.type in (spm.NORMAL, spm.USER)}
    special = {piece.piece for piece in proto.pieces} - known
    strange = sorted(set("".join(special)) - known)
    if not strange:
        return None
    letters = tokenizers.Regex("|".join(re.escape(letter) for letter in strange))
    return pre_tokenizers.Split(letters, "isolated")


def _finished(inner: tokenizers.Tokenizer, tokenizer: TableTokenizer) -> dict[str, Any]:
    """With its special tokens, and with BOS before each text."""
    names = sorted(tokenizer.special_tokens, key=tokenizer.special_tokens.__getitem__)
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    bos = names[[tokenizer.special_tokens[name] for name in names].index(tokenizer.bos_id)]
    inner.post_processor = post.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos}:1 $B:1",
        special_tokens=[(bos, tokenizer.bos_id)],
    )
    spec: dict[str, Any] = json.loads(inner.to_str())
    return spec


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
