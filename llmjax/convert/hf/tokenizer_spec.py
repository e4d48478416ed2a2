"""Tokenizers of ours as a tokenizer.json: the same ids for every text."""

import json
import re
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import processors as post

from llmjax.data.tokenizers.huggingface import from_sentencepiece as spm
from llmjax.data.tokenizers.huggingface.stages import byte_level_table
from llmjax.data.tokenizers.sentencepiece import SPACE, SentencePieceTokenizer
from llmjax.data.tokenizers.table import BytesTokenizer, TableTokenizer

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
    pieces = [(piece.piece.replace(SPACE, " "), piece.score) for piece in proto.pieces]
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
