"""Export a tokenizer as the files that Transformers loads."""

import json
import re
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import processors as post

from llmjax.convert.hf.config import write_json
from llmjax.data.tokenizers.folder import CHAT_TEMPLATE
from llmjax.data.tokenizers.huggingface import from_sentencepiece as spm
from llmjax.data.tokenizers.huggingface.file import TOKENIZER_FILE
from llmjax.data.tokenizers.huggingface.stages import byte_level_table
from llmjax.data.tokenizers.huggingface.tokenizer import HuggingFaceTokenizer
from llmjax.data.tokenizers.sentencepiece import SPACE, SentencePieceTokenizer
from llmjax.data.tokenizers.table import BytesTokenizer, TableTokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError

NEVER = 1e6
"""Cost, in nats, of a piece that must never be used."""


def bytes_spec(tokenizer: BytesTokenizer) -> dict[str, Any]:
    """tokenizer.json of the byte tokenizer: byte-level BPE without merges."""
    letters = {value[0]: letter for letter, value in byte_level_table().items()}
    vocab = {letters[byte]: byte for byte in range(256)} | tokenizer.special_tokens
    inner = tokenizers.Tokenizer(models.BPE(vocab, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return _finished(inner, tokenizer)


def sentencepiece_spec(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    """tokenizer.json of a SentencePiece model.

    Pieces are written with plain spaces, so that U+2581 falls back to bytes as in llmjax. A model
    that normalises text, trained elsewhere, is converted as it is.
    """
    proto = spm.parse(tokenizer.model, "SentencePiece model")
    spec = proto.normalizer_spec
    normalises = spec.add_dummy_prefix or spec.remove_extra_whitespaces or spec.precompiled_charsmap
    if normalises or not proto.trainer_spec.byte_fallback:
        inner = spm.convert(proto)
    else:
        inner = tokenizers.Tokenizer(_lossless(proto))
        inner.pre_tokenizer = _isolate_special(proto)
        inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return _finished(inner, tokenizer)


def _lossless(proto: Any) -> models.Model:
    pieces = [(piece.piece.replace(SPACE, " "), piece.score) for piece in proto.pieces]
    in_text = [piece.type in (spm.NORMAL, spm.USER) for piece in proto.pieces]
    unknown = proto.trainer_spec.unk_id
    if proto.trainer_spec.model_type == spm.UNIGRAM:
        # Bytes and special tokens have entries too, which must not match text.
        scored = [
            (piece, score if usable else -NEVER)
            for (piece, score), usable in zip(pieces, in_text, strict=True)
        ]
        return models.Unigram(scored, unk_id=unknown, byte_fallback=True)
    joined = {
        piece: score for (piece, score), usable in zip(pieces, in_text, strict=True) if usable
    }
    vocab = {piece: number for number, (piece, _) in enumerate(pieces)}
    merges = spm.merges_of(joined)
    return models.BPE(vocab, merges, unk_token=pieces[unknown][0], byte_fallback=True)


def _isolate_special(proto: Any) -> pre_tokenizers.PreTokenizer | None:
    """Split text for a unigram model at characters that only special entries contain.

    Otherwise "<s>" would match text if "<" is unknown, since an unknown character costs more than
    any entry.
    """
    if proto.trainer_spec.model_type != spm.UNIGRAM:
        return None
    normal = {piece.piece for piece in proto.pieces if piece.type in (spm.NORMAL, spm.USER)}
    special = {piece.piece for piece in proto.pieces} - normal
    only_special = sorted(set("".join(special)) - normal)
    if not only_special:
        return None
    pattern = tokenizers.Regex("|".join(map(re.escape, only_special)))
    return pre_tokenizers.Split(pattern, "isolated")


def _finished(inner: tokenizers.Tokenizer, tokenizer: TableTokenizer) -> dict[str, Any]:
    """The tokenizer.json, with special tokens and BOS before each text."""
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


CLS_SEP_MODELS = ("bert", "distilbert", "roberta", "xlm-roberta", "modernbert")
"""Model types that call BOS and EOS CLS and SEP."""
TOKEN_TYPE_MODELS = ("bert",)
"""Model types that take token types."""


def export_tokenizer(
    tokenizer: Tokenizer,
    folder: Path,
    *,
    max_length: int,
    chat_template: str | None = None,
    model_type: str = "llama",
) -> None:
    """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and the chat template.

    An imported tokenizer.json is written unchanged; ids are the same for every text.

    Args:
      tokenizer: the tokenizer.
      folder: an existing folder.
      max_length: the model's context, in tokens.
      chat_template: overrides the tokenizer's own template.
      model_type: of the config.json in the same folder.

    Raises:
      UserError: the tokenizer has no equivalent.
    """
    content = tokenizer_json(tokenizer)
    names = _names(tokenizer, json.loads(content), model_type)
    inputs = [
        "input_ids",
        *(["token_type_ids"] if model_type in TOKEN_TYPE_MODELS else []),
        "attention_mask",
    ]
    settings = {
        **names,
        "clean_up_tokenization_spaces": False,
        "model_input_names": inputs,
        "model_max_length": max_length,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    template = tokenizer.chat_template if chat_template is None else chat_template
    if template is not None:
        settings["chat_template"] = template  # for older readers
        (folder / CHAT_TEMPLATE).write_text(template, encoding="utf-8")
    (folder / TOKENIZER_FILE).write_bytes(content)
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", names)


def tokenizer_json(tokenizer: Tokenizer) -> bytes:
    """The content of an equivalent tokenizer.json.

    Raises:
      UserError: the tokenizer has no equivalent.
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
            raise UserError(f"tokenizer {kind}", "has no equivalent tokenizer.json")
    return (json.dumps(spec, ensure_ascii=False, indent=1) + "\n").encode()


def _names(tokenizer: Tokenizer, spec: dict[str, Any], model_type: str) -> dict[str, str]:
    """The special tokens (bos_token, ...) under the names of the model type."""
    by_id = {token: name for name, token in tokenizer.special_tokens.items()}
    bos, eos = by_id[tokenizer.bos_id], by_id[tokenizer.eos_id]
    names = {"eos_token": eos, "pad_token": by_id[tokenizer.pad_id]}
    if tokenizer.bos_id != tokenizer.pad_id or tokenizer.bos_id == tokenizer.eos_id:
        names = {"bos_token": bos} | names
    if model_type in CLS_SEP_MODELS:
        names |= {"cls_token": bos, "sep_token": eos}
    if tokenizer.mask_id is not None:
        names["mask_token"] = by_id[tokenizer.mask_id]
    unknown = _unknown(spec["model"])
    return names if unknown is None else names | {"unk_token": unknown}


def _unknown(model: dict[str, Any]) -> str | None:
    if model.get("type") == "Unigram" and model.get("unk_id") is not None:
        return str(model["vocab"][model["unk_id"]][0])
    token = model.get("unk_token")
    return None if token is None else str(token)
