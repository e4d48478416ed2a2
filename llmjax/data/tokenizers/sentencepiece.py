"""SentencePiece tokenizers, made lossless, and their training."""

import io
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import sentencepiece

from llmjax.data.objectives.config import MASK
from llmjax.data.tokenizers.table import Frame, Roles, TableTokenizer
from llmjax.data.tokenizers.tokenizer import utf8
from llmjax.errors import UserError
from llmjax.storage.bounded import read_bytes

if TYPE_CHECKING:
    from llmjax.data.tokenizers.config import SentencePieceConfig

log = logging.getLogger(__name__)

MODEL_FILE = "sentencepiece.model"
MODEL_SIZE = 1 << 25
"""Maximum bytes of a SentencePiece model; the largest published ones have some 5 million."""
SPACE = "\u2581"  # SentencePiece's character for a space
# The trainer skips sentences with these characters; they are encoded as bytes.
UNTRAINABLE = str.maketrans(dict.fromkeys(f"{SPACE}\u2585\0\t", " "))
PART = 1 << 17
"""Maximum characters encoded at once: SentencePiece's memory is proportional to them."""
SENTENCE = 1 << 13
"""Maximum characters of a training sentence."""


class SentencePieceTokenizer(TableTokenizer):
    """A SentencePiece model with lossless decoding.

    Lossless if the model has byte fallback and an identity normalizer, as those trained here:
    U+2581, SentencePiece's character for a space, is encoded as bytes without the model.
    """

    def __init__(
        self,
        model: bytes,
        name: object = "SentencePiece model",
        chat_template: str | None = None,
    ):
        """Raises a UserError if `model` is not a serialized SentencePiece model."""
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            size = processor.vocab_size()
        except (RuntimeError, OSError) as error:
            raise UserError(name, "is not a SentencePiece model", "give a .model file") from error
        special = {
            processor.id_to_piece(i): i
            for i in range(size)
            if processor.is_control(i) or processor.is_unknown(i)
        }
        bos, eos = processor.bos_id(), processor.eos_id()
        if max(bos, eos) < 0:
            raise UserError(name, "has neither BOS nor EOS", "train it with one of them")
        bos, eos = (bos if bos >= 0 else eos), (eos if eos >= 0 else bos)
        pad = processor.pad_id() if processor.pad_id() >= 0 else eos
        self._processor = processor
        self._space_ids = [
            processor.piece_to_id(f"<0x{byte:02X}>")
            for byte in SPACE.encode()
            if processor.is_byte(processor.piece_to_id(f"<0x{byte:02X}>"))
        ]
        prefix = processor.id_to_piece(processor.encode("a")[0]).startswith(SPACE)
        super().__init__(
            [_piece_bytes(processor, i) for i in range(size)],
            special,
            Roles(bos, eos, pad, Frame.starting(bos), special.get(MASK)),
            {"kind": "sentencepiece"},
            {MODEL_FILE: model},
            leading_space=prefix,
            chat_template=chat_template,
        )

    @classmethod
    def from_file(cls, path: Path, chat_template: str | None = None) -> "SentencePieceTokenizer":
        """Reads a .model file; raises a UserError if it is missing or too large."""
        return cls(read_bytes(path, MODEL_SIZE, fix="check the path"), path, chat_template)

    @property
    def model(self) -> bytes:
        """The .model file."""
        return self._files[MODEL_FILE]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        splits = self._splits
        parts = [list(_parts(text)) if splits else [text] for text in texts]
        plain = [utf8(part) for text in parts for part in text if part != SPACE or not splits]
        encoded = iter(self._processor.encode(plain))
        if len(plain) == len(texts) == sum(map(len, parts)):
            return list(encoded)
        rows: list[list[int]] = []
        for pieces in parts:
            rows.append([])
            for part in pieces:
                rows[-1] += self._space_ids if part == SPACE and splits else next(encoded)
        return rows

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids = self.encode(text)
        if self.decode_bytes(ids) == utf8(text):
            return ids, self._offsets(text, ids)
        # A model that normalizes the text reports the offsets of its pieces.
        offsets: list[tuple[int, int]] = []
        start = 0
        for part in _parts(text) if self._splits else [text]:
            if part == SPACE and self._splits:
                offsets += [(start, start + 1)] * len(self._space_ids)
            else:
                mapping = self._processor.encode_as_offset_mapping(utf8(part).decode())
                offsets += [(start + first, start + end) for first, end in mapping["offsets"]]
            start += len(part)
        return ids, offsets

    @property
    def _splits(self) -> bool:
        """Whether texts are split into parts; not if the model adds a space before each text."""
        return not self._leading_space and bool(self._space_ids)


def _parts(text: str) -> Iterator[str]:
    """Splits `text` into each U+2581 and the runs between, of at most PART characters each."""
    for run in re.split(f"({SPACE})", text) if SPACE in text else [text]:
        start = 0
        while len(run) - start > PART:
            end = run.rfind("\n", start, start + PART) + 1 or start + PART
            yield run[start:end]
            start = end
        yield run[start:]


def _piece_bytes(processor: sentencepiece.SentencePieceProcessor, token: int) -> bytes:
    piece = processor.id_to_piece(token)
    if processor.is_control(token) or processor.is_unused(token):
        return b""
    if processor.is_unknown(token):  # never produced by a model with byte fallback
        return "\N{REPLACEMENT CHARACTER}".encode()
    if processor.is_byte(token):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(SPACE, " ").encode()


def train_sentencepiece(
    config: "SentencePieceConfig", texts: Iterable[str], pieces: Sequence[str] = ()
) -> bytes:
    """Trains a model on all of `texts`, deterministically.

    A text that supports fewer entries than the config asks for gets as many as it supports, with a
    warning.

    Args:
      config: of the model.
      texts: at least one.
      pieces: special tokens in addition to padding, BOS, EOS and unknown; part of the vocabulary.

    Raises:
      UserError: there is no text, or the vocabulary is too small for its characters.
    """
    texts = texts if isinstance(texts, list) else list(texts)
    if next(_sentences(texts), None) is None:
        raise UserError("tokenizer", "there is no text to train it on", "add training text")
    try:
        return _train(config, texts, pieces)
    except RuntimeError as error:
        match = re.search(r"value <= (\d+)", str(error))
        if match is None:
            raise _vocabulary_error(config, str(error)) from error
        largest = int(match[1])
        message = "tokenizer.vocab_size %d: the training text supports %d entries, so it gets these"
        log.warning(message, config.vocab_size, largest)
    return _train(replace(config, vocab_size=largest), texts, pieces)


def _train(config: "SentencePieceConfig", texts: Iterable[str], pieces: Sequence[str]) -> bytes:
    """
    Raises:
      RuntimeError: SentencePiece refuses the vocabulary size.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_sentences(texts),
        model_writer=model,
        model_type=config.model_type,
        vocab_size=config.vocab_size,
        character_coverage=config.character_coverage,
        split_digits=config.split_digits,
        byte_fallback=True,
        control_symbols=list(pieces),
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        max_sentence_length=SENTENCE * 4,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        num_threads=16,  # constant, because it determines unigram's order of summation
        minloglevel=2,
    )
    return model.getvalue()


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        clean = text.translate(UNTRAINABLE)
        start = 0
        while start < len(clean):
            end = start + SENTENCE
            if end < len(clean):
                end = clean.rfind("\n", start, end) + 1 or clean.rfind(" ", start, end) + 1 or end
            yield clean[start:end]
            start = end


def _vocabulary_error(config: "SentencePieceConfig", message: str) -> UserError:
    """Explains the trainer's error message."""
    size = config.vocab_size
    if match := re.search(r"required_chars\D+\d+ vs (\d+)", message):
        reason = f"bytes, special tokens and the text's characters alone need {match[1]}"
        fix = f"set it to {match[1]} or more, or lower tokenizer.character_coverage"
        return UserError(f"tokenizer.vocab_size {size}", reason, fix)
    return UserError(f"tokenizer.vocab_size {size}", f"SentencePiece refuses: {message}")
