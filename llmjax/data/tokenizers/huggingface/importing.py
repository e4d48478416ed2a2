"""Imports the tokenizer of a published model: tokenizer.json or the older formats.

The older formats are WordPiece's vocab.txt, byte-level BPE's vocab.json with merges.txt, and
SentencePiece models.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors as post

from llmjax.data.tokenizers.huggingface.file import (
    FILE_SIZE,
    MAX_MERGES,
    MAX_TOKENS,
    TOKENIZER_FILE,
    at_most,
    check_ids,
    check_limits,
    compact,
    parse_tokenizer_json,
    read_tokenizer_json,
    tokens_of,
)
from llmjax.data.tokenizers.huggingface.from_sentencepiece import import_sentencepiece
from llmjax.data.tokenizers.huggingface.library import TranslatedErrors
from llmjax.data.tokenizers.huggingface.metadata import TokenizerMetadata, with_added_tokens
from llmjax.data.tokenizers.huggingface.tokenizer import HuggingFaceTokenizer
from llmjax.errors import UserError
from llmjax.storage.bounded import read_bytes
from llmjax.storage.json_documents import DOCUMENT, read_json


def import_tokenizer(folder: Path | str, rows: int | None = None) -> HuggingFaceTokenizer:
    """Imports the tokenizer of a Hugging Face folder: its tokenizer.json, or older formats.

    Special tokens, stop tokens and the chat template come from the other files of the folder. A
    `dropout` of merges is disabled.

    Args:
      folder: of the model.
      rows: of the model's embedding. Added tokens with higher ids are dropped, such as Gemma 3's
        image token, for which its text models have no row. None: all are kept.

    Raises:
      UserError: there is no tokenizer, its files are damaged or contradict each other, or exceed
        the limits of `huggingface.file`.
    """
    folder = Path(folder)
    metadata = TokenizerMetadata.read(folder)
    path = folder / TOKENIZER_FILE
    files = next(
        (names for names in OLDER_FORMATS if all((folder / n).is_file() for n in names)), None
    )
    if path.is_file():
        content, spec = _trim(read_tokenizer_json(path), rows, path)
    elif files is not None:
        path = folder / files[0]
        with TranslatedErrors(path, "cannot be read as a tokenizer"):
            spec = json.loads(OLDER_FORMATS[files](metadata).to_str())
            check_limits(spec, path)
            content = compact(spec)
    else:
        choices = ", ".join([TOKENIZER_FILE, *(" and ".join(names) for names in OLDER_FORMATS)])
        raise UserError(folder, "holds no tokenizer", f"one of these files is needed: {choices}")
    with TranslatedErrors(path):
        content, spec = with_added_tokens(content, spec, metadata, rows)
        vocab = tokens_of(spec)
    return HuggingFaceTokenizer(
        content,
        metadata.names(vocab),
        path,
        stops=metadata.stops(vocab),
        chat_template=metadata.chat_template(),
        spec=spec,
    )


def _trim(content: bytes, rows: int | None, path: Path) -> tuple[bytes, dict[str, Any]]:
    """Removes added tokens beyond the embedding's rows, and dropout; unchanged if there are
    none."""
    spec = parse_tokenizer_json(content, path)
    with TranslatedErrors(path):
        kept = [token for token in spec["added_tokens"] if rows is None or token["id"] < rows]
        if len(kept) == len(spec["added_tokens"]) and spec["model"].get("dropout") is None:
            return content, spec
    model = spec["model"] | ({"dropout": None} if "dropout" in spec["model"] else {})
    spec = spec | {"added_tokens": kept, "model": model}
    return compact(spec), spec


def import_wordpiece(metadata: TokenizerMetadata) -> Tokenizer:
    """Reads BERT's vocab.txt (Devlin et al. 2018, arXiv:1810.04805): line n is the piece of id n.

    Raises:
      UserError: it lacks [UNK], [CLS] or [SEP].
    """
    path, settings = metadata.folder / "vocab.txt", metadata.tokenizer
    lines = _text(path).removesuffix("\n").split("\n")
    at_most(MAX_TOKENS, len(lines), "tokens", path)
    vocab = {line.rstrip("\r"): number for number, line in enumerate(lines)}
    unknown = metadata.token("unk_token") or "[UNK]"
    first = metadata.token("cls_token") or "[CLS]"
    last = metadata.token("sep_token") or "[SEP]"
    for token in (unknown, first, last):
        if token not in vocab:
            raise UserError(path, f"has no {token}", "check special_tokens_map.json")
    inner = Tokenizer(models.WordPiece(vocab, unk_token=unknown, max_input_chars_per_word=100))
    inner.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(prefix="##")
    inner.post_processor = post.TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0",
        pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
        special_tokens=[(first, vocab[first]), (last, vocab[last])],
    )
    optional = [metadata.token("pad_token") or "[PAD]", metadata.token("mask_token") or "[MASK]"]
    special = [token for token in (unknown, first, last, *optional) if token in vocab]
    inner.add_special_tokens(special)
    return inner


def import_byte_level(metadata: TokenizerMetadata) -> Tokenizer:
    """Reads vocab.json and merges.txt of GPT-2 (Radford et al. 2019) and RoBERTa.

    Raises:
      UserError: they are of another family, whose pre-tokenizer these files do not define.
    """
    roberta = metadata.kind in ("roberta", "bart", "longformer")
    if not roberta and metadata.kind not in ("gpt2", "gpt-neo", "gptj", "opt", ""):
        reason = f"does not define how {metadata.kind} splits words"
        raise UserError(metadata.folder / "merges.txt", reason, "a tokenizer.json is needed")
    path = metadata.folder / "vocab.json"
    vocab = read_json(path, limits=DOCUMENT)
    at_most(MAX_TOKENS, len(vocab), "tokens", path)
    check_ids(vocab.values(), path)
    lines = _text(metadata.folder / "merges.txt").split("\n")
    at_most(MAX_MERGES, len(lines), "merges", metadata.folder / "merges.txt")
    pairs = [line.rstrip("\r").split(" ") for line in lines if not line.startswith("#version")]
    merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    inner = Tokenizer(models.BPE(vocab, merges))
    space = bool(metadata.tokenizer.get("add_prefix_space", False))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    inner.decoder = decoders.ByteLevel()
    if not roberta:
        end = metadata.token("eos_token") or "<|endoftext|>"
        inner.post_processor = post.ByteLevel(trim_offsets=False)
        inner.add_special_tokens([end] if end in vocab else [])
        return inner
    first, last = metadata.token("cls_token") or "<s>", metadata.token("sep_token") or "</s>"
    mask = metadata.token("mask_token") or "<mask>"
    inner.post_processor = post.RobertaProcessing(
        (last, vocab[last]), (first, vocab[first]), trim_offsets=True, add_prefix_space=space
    )
    plain = [token for token in (first, "<pad>", last, "<unk>") if token in vocab]
    # The mask includes the space before it, so that "a <mask>" is a word and a mask.
    masks = [AddedToken(mask, lstrip=True, normalized=False, special=True)] if mask in vocab else []
    inner.add_special_tokens([*plain, *masks])
    return inner


def _text(path: Path) -> str:
    """Reads a text file with universal newlines."""
    text = read_bytes(path, FILE_SIZE).decode("utf-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


# Older formats in order of preference: their files, and the function that reads them.
OLDER_FORMATS: dict[tuple[str, ...], Callable[[TokenizerMetadata], Tokenizer]] = {
    ("vocab.txt",): import_wordpiece,
    ("vocab.json", "merges.txt"): import_byte_level,
    ("spiece.model",): import_sentencepiece,
    ("sentencepiece.bpe.model",): import_sentencepiece,
    ("tokenizer.model",): import_sentencepiece,
}
