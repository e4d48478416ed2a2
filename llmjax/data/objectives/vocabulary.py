"""The properties of a tokenizer that objectives depend on."""

from dataclasses import dataclass

import numpy as np

from llmjax.data.objectives.config import Objective, ObjectiveConfig, sentinel
from llmjax.data.objectives.windows import Windows
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Properties of a tokenizer.

    Attributes:
      bos, eos, pad: ids, as in Tokenizer.
      mask: id of the mask token; None if there is none.
      sentinels: int32 [n], ids of <extra_id_0>, <extra_id_1>, ...
      starts_with_bos: whether the model expects BOS before a text; otherwise EOS after it.
      text: bool [V], tokens that stand for bytes of text: all but the special ones.
      opens: bool [V], tokens that always begin a word (a space, a punctuation mark, a CJK
        character, a special token).
      closes: bool [V], tokens after which a new word begins.
    """

    bos: int
    eos: int
    pad: int
    mask: int | None
    sentinels: np.ndarray
    starts_with_bos: bool
    text: np.ndarray
    opens: np.ndarray
    closes: np.ndarray


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Reads the properties of a tokenizer."""
    special = tokenizer.special_tokens
    sentinels: list[int] = []
    while (token := special.get(sentinel(len(sentinels)))) is not None:
        sentinels.append(token)
    pieces = [tokenizer.piece_bytes(token) for token in range(tokenizer.vocab_size)]
    text = tokenizer.token_bytes() > 0
    opens = [not piece or not _in_word(piece[0]) or 0xE3 <= piece[0] <= 0xE9 for piece in pieces]
    closes = [not piece or not _in_word(piece[-1]) for piece in pieces]
    return Vocabulary(
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.pad_id,
        tokenizer.mask_id,
        np.array(sentinels, np.int32),
        bool(tokenizer.prefix),
        text,
        np.array(opens) | ~text,
        np.array(closes) | ~text,
    )


def missing_token(what: str, piece: str) -> UserError:
    """The error for a tokenizer that lacks a token of the run's objective."""
    return UserError(
        "this tokenizer",
        f"has no {what} for the run's objective",
        f"let train make one (--tokenizer sentencepiece), or take one with {piece}",
    )


def _in_word(byte: int) -> bool:
    """Letters, digits, "_", and every character beyond ASCII; U+3000 to U+9FFF begin with E3-E9."""
    return byte >= 0x80 or byte == 0x5F or chr(byte).isalnum()


def encoder_input(windows: Windows, vocabulary: Vocabulary) -> np.ndarray:
    """The encoder's input, int32 [R, L]: BOS before each document, or EOS after it.

    For a document that began in an earlier row, that row's last token takes the place of BOS.
    """
    tokens = windows.tokens
    if vocabulary.starts_with_bos:
        tokens = np.where(windows.first, vocabulary.bos, windows.previous)
    return np.where(windows.segments > 0, tokens, vocabulary.pad).astype(np.int32)


def word_numbers(tokens: np.ndarray, segments: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Each token's word as its number in the row, int64 [R, L]."""
    begins = vocabulary.opens[tokens]
    begins[:, 1:] |= vocabulary.closes[tokens[:, :-1]] | (segments[:, 1:] != segments[:, :-1])
    return np.cumsum(begins, axis=1)


def make_objective(
    config: ObjectiveConfig, tokenizer: Tokenizer, *, is_encoder_decoder: bool
) -> Objective:
    """Builds the objective of a config.

    Args:
      config: checked.
      tokenizer: of the text.
      is_encoder_decoder: whether the model is one.

    Raises:
      UserError: the tokenizer lacks the mask token or sentinels.
    """
    return config.build(vocabulary_of(tokenizer), is_encoder_decoder)
