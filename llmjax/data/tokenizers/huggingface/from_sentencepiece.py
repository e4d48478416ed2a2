"""Converts SentencePiece models to equivalent tokenizer.json files."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors as post

from llmjax.data.tokenizers.huggingface.file import MAX_ADDED, MAX_TOKENS, OTHER, at_most
from llmjax.data.tokenizers.huggingface.metadata import TokenizerMetadata
from llmjax.data.tokenizers.sentencepiece import MODEL_SIZE, SPACE
from llmjax.errors import UserError
from llmjax.storage.bounded import read_bytes

LONGEST_PIECE = 256
"""Maximum characters of a token; SentencePiece's own default is 16."""
schema: Any = sentencepiece_model_pb2  # generated code without types
UNIGRAM, BPE = 1, 2  # types of model
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)  # types of piece
# Families whose tokenizer Transformers builds from the model's settings, whatever its class name.
GENERIC = ("internlm2", "internlm3", "minicpm3", "mistral", "mixtral", "phi3", "phimoe")
T5 = ("t5", "mt5", "umt5")
XLM_ROBERTA = ("xlm-roberta", "xlmroberta")


def parse(content: bytes, name: object) -> Any:
    """Parses a .model file.

    Raises:
      UserError: it is not a SentencePiece model of type BPE or unigram, or too large.
    """
    if len(content) > MODEL_SIZE:
        reason = f"is larger than the limit of {MODEL_SIZE:,} bytes"
        raise UserError(name, reason, OTHER)
    proto = schema.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise UserError(name, "is not a SentencePiece model", "give a .model file") from error
    if not proto.pieces or proto.trainer_spec.model_type not in (UNIGRAM, BPE):
        raise UserError(name, "is not a SentencePiece model of kind BPE or unigram")
    at_most(MAX_TOKENS, len(proto.pieces), "tokens", name)
    longest = max(len(piece.piece) for piece in proto.pieces)
    at_most(LONGEST_PIECE, longest, "characters in one token", name)
    return proto


def merges_of(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """The pairs of pieces that form a piece, in SentencePiece's order of merging.

    It merges any two neighbours that form a piece, those of highest score first.
    """
    ids = {piece: index for index, piece in enumerate(scores)}
    merges = []
    for piece, score in scores.items():
        for middle in range(1, len(piece)):
            left, right = piece[:middle], piece[middle:]
            if left in ids and right in ids:
                merges.append((-score, ids[piece], ids[left], (left, right)))
    return [pair for *_, pair in sorted(merges)]


def convert(proto: Any, *, legacy: bool = True, scheme: str | None = None) -> Tokenizer:
    """Converts a model, with its special tokens but without a post-processor.

    Args:
      proto: the model.
      legacy: whether a space is added before each part of a text between special tokens, rather
        than before the text only.
      scheme: where a space is added, "always", "first" or "never"; None: by the model's settings.
    """
    inner = Tokenizer(_model(proto, *_pieces(proto)))
    if scheme is None:
        _set_spaces(inner, proto, legacy)
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=False)
        inner.decoder = _decoder(strips=scheme != "never")
    inner.add_special_tokens([p.piece for p in proto.pieces if p.type in (UNKNOWN, CONTROL)])
    user = [piece.piece for piece in proto.pieces if piece.type == USER]
    normalized = not proto.normalizer_spec.add_dummy_prefix
    inner.add_tokens([AddedToken(piece, normalized=normalized) for piece in user])
    return inner


def import_sentencepiece(metadata: TokenizerMetadata) -> Tokenizer:
    """Converts the model of a folder, with its family's special tokens.

    T5 appends the sentinels <extra_id_99> ... <extra_id_0> to the pieces; XLM-R shifts all ids by
    one, because its special tokens are in another order, and appends a mask token.

    Raises:
      UserError: there is no model, or it is of another type.
    """
    names = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
    path = next(metadata.folder / name for name in names if (metadata.folder / name).is_file())
    proto = parse(read_bytes(path, MODEL_SIZE), path)
    if path.name == "sentencepiece.bpe.model":
        if metadata.kind not in XLM_ROBERTA:
            reason = f"of {metadata.kind or 'an unnamed model'} has its own numbering"
            raise UserError(path, reason, "a tokenizer.json is needed")
        inner = _xlm_roberta(proto, prefix=metadata.tokenizer.get("add_prefix_space") is not False)
    elif metadata.kind in T5:
        count = metadata.tokenizer.get("extra_ids", 100)
        if type(count) is not int or not 0 <= count <= MAX_ADDED:
            reason = f"has extra_ids {count!r:.40}, which is from 0 to {MAX_ADDED:,}"
            raise UserError(metadata.folder / "tokenizer_config.json", reason, "correct it")
        sentinels = [f"<extra_id_{number}>" for number in reversed(range(count))]
        pieces, unknown = _pieces(proto)
        inner = Tokenizer(
            _model(proto, [*pieces, *((sentinel, 0.0) for sentinel in sentinels)], unknown)
        )
        _set_spaces(inner, proto, legacy=True)
        inner.add_special_tokens([p.piece for p in proto.pieces if p.type in (UNKNOWN, CONTROL)])
        inner.add_special_tokens(sentinels)
    else:
        legacy = metadata.tokenizer.get("legacy") is not False
        inner = convert(proto, legacy=legacy, scheme=_llama_scheme(metadata, proto))
    _set_post_processor(inner, metadata)
    return inner


def _llama_scheme(metadata: TokenizerMetadata, proto: Any) -> str | None:
    """Where Llama's tokenizer adds a space; None for other tokenizers.

    Its class ignores the model's settings: add_prefix_space and legacy of tokenizer_config.json
    decide.
    """
    class_name = str(metadata.tokenizer.get("tokenizer_class")).removesuffix("Fast")
    if (
        class_name != "LlamaTokenizer"
        or metadata.kind in GENERIC
        or proto.trainer_spec.model_type != BPE
    ):
        return None
    if metadata.tokenizer.get("add_prefix_space") is False:
        return "never"
    return "always" if metadata.tokenizer.get("legacy") is True else "first"


def _xlm_roberta(proto: Any, *, prefix: bool) -> Tokenizer:
    first = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = [*first, *_pieces(proto)[0][3:], ("<mask>", 0.0)]
    inner = Tokenizer(_model(proto, pieces, unknown=3))
    _set_spaces(inner, proto, legacy=True, prefix=prefix)
    inner.add_special_tokens([piece for piece, _ in first])
    inner.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    return inner


def _pieces(proto: Any) -> tuple[list[tuple[str, float]], int]:
    return [(piece.piece, piece.score) for piece in proto.pieces], proto.trainer_spec.unk_id


def _model(proto: Any, pieces: Sequence[tuple[str, float]], unknown: int) -> models.Model:
    fallback = proto.trainer_spec.byte_fallback
    if proto.trainer_spec.model_type == UNIGRAM:
        return models.Unigram(list(pieces), unk_id=unknown, byte_fallback=fallback)
    scores = {p.piece: p.score for p in proto.pieces if p.type in (NORMAL, USER)}
    return models.BPE(
        {piece: number for number, (piece, _) in enumerate(pieces)},
        merges_of(scores),
        unk_token=pieces[unknown][0],
        fuse_unk=True,
        byte_fallback=fallback,
    )


def _set_spaces(inner: Tokenizer, proto: Any, legacy: bool, prefix: bool = True) -> None:
    """Sets normalizer, pre-tokenizer and decoder, which handle spaces (U+2581 in pieces).

    `prefix`: whether a space may be added before a text.
    """
    spec = proto.normalizer_spec
    adds_space = prefix and spec.add_dummy_prefix
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    scheme = "always" if adds_space else "never"
    if proto.trainer_spec.model_type == UNIGRAM and spec.remove_extra_whitespaces:
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.WhitespaceSplit(),
                pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme),
            ]
        )
        inner.normalizer = normalizers.Sequence(steps) if steps else None
        inner.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
        return
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if adds_space and not legacy:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement=SPACE, prepend_scheme="first", split=False
        )
    else:
        steps += [normalizers.Prepend(SPACE)] if adds_space else []
        steps.append(normalizers.Replace(" ", SPACE))
    inner.normalizer = normalizers.Sequence(steps) if steps else None
    inner.decoder = _decoder(strips=adds_space)


def _decoder(*, strips: bool) -> decoders.Decoder:
    """The decoder; `strips`: whether it removes the space before a text."""
    last = [decoders.Strip(content=" ", left=1, right=0)] if strips else []
    return decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *last]
    )


def _set_post_processor(inner: Tokenizer, metadata: TokenizerMetadata) -> None:
    """Sets the post-processor: the family's special tokens around a text and a pair."""
    bos = metadata.token("bos_token") or "<s>"
    eos = metadata.token("eos_token") or "</s>"
    if metadata.kind in XLM_ROBERTA:
        single, pair = f"{bos} $A {eos}", f"{bos} $A {eos} {eos} $B {eos}"
    elif metadata.kind in T5:
        single, pair = f"$A {eos}", f"$A {eos} $B {eos}"
    else:
        before = f"{bos} " if metadata.tokenizer.get("add_bos_token", True) else ""
        after = f" {eos}" if metadata.tokenizer.get("add_eos_token", False) else ""
        single = f"{before}$A{after}"
        second = single.replace("$A", "$B")
        pair = f"{single} " + " ".join(f"{part}:1" for part in second.split())
    used = [token for token in (bos, eos) if token in single.split()]
    ids = {token: inner.token_to_id(token) for token in used}
    for token, number in ids.items():
        if number is None:
            raise UserError(
                metadata.folder, f"has no token {token!r}", "check tokenizer_config.json"
            )
    inner.post_processor = post.TemplateProcessing(
        single=single, pair=pair, special_tokens=list(ids.items())
    )
