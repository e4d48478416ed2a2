"""Tokenizer configs: how each kind is opened, trained and loaded, and their registry.

Cheap to import: libraries are imported when a tokenizer is opened.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from llmjax.data.tokenizers.folder import read_chat_template, read_description
from llmjax.errors import UserError
from llmjax.registry import Registry

if TYPE_CHECKING:
    from llmjax.data.tokenizers.tokenizer import Tokenizer

SMALLEST_VOCABULARY = 256 + 4
"""Entries of every SentencePiece model: bytes, padding, BOS, EOS and unknown."""
LOWEST_COVERAGE = 0.98
"""Minimum character coverage that SentencePiece accepts."""


class TokenizerConfig(ABC):
    """The tokenizer to use. Subclasses are frozen dataclasses."""

    endings: ClassVar[tuple[str, ...]] = ()
    """File name suffixes that select this kind on the command line."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name in TOKENIZERS, in configs and in stored descriptions."""

    @property
    def sample_bytes(self) -> int:
        """Maximum size of the training text; 0 for kinds that are not trained."""
        return 0

    def problems(self) -> list[str]:
        """Every problem with the values, one line each; nothing is read from disk."""
        return []

    @abstractmethod
    def open(self) -> "Tokenizer | None":
        """Opens the tokenizer; returns None if it has to be trained.

        Raises:
          UserError: a file is missing or cannot be read.
        """

    def train(self, texts: Iterable[str], special_tokens: tuple[str, ...] = ()) -> "Tokenizer":
        """Trains a tokenizer.

        Args:
          texts: at least one; equal texts give equal tokenizers.
          special_tokens: in addition to padding, BOS, EOS and unknown.

        Raises:
          UserError: there is no text, or it does not support the vocabulary size.
        """
        raise TypeError(f"a tokenizer of kind {self.kind} is not trained")

    @staticmethod
    @abstractmethod
    def load(folder: Path, description: Mapping[str, Any], template: str | None) -> "Tokenizer":
        """Loads a saved tokenizer of this kind.

        Args:
          folder: verified.
          description: from `read_description`.
          template: the chat template.
        """


TOKENIZERS = Registry[TokenizerConfig](
    "tokenizer",
    {
        "sentencepiece": "llmjax.data.tokenizers.config:SentencePieceConfig",
        "huggingface": "llmjax.data.tokenizers.config:HuggingFaceTokenizerConfig",
        "bytes": "llmjax.data.tokenizers.config:BytesConfig",
    },
)
AnyTokenizerConfig: TypeAlias = Annotated[TokenizerConfig, TOKENIZERS]
"""Type of config fields that take any tokenizer."""


def load_tokenizer(folder: Path | str) -> "Tokenizer":
    """Loads a saved tokenizer, such as a run's tokenizer/ folder.

    Raises:
      UserError: there is no tokenizer, its format is unknown, or it is damaged.
    """
    folder = Path(folder)
    description = read_description(folder)
    kind = description["kind"]
    if kind not in TOKENIZERS:
        raise UserError(folder, f"holds a tokenizer of unknown kind {kind!r}", "upgrade")
    tokenizer = TOKENIZERS[kind].load(folder, description, read_chat_template(folder))
    if tokenizer.fingerprint != description["fingerprint"]:
        raise UserError(folder, "the tokenizer's files were changed", "restore them")
    return tokenizer


@dataclass(frozen=True)
class SentencePieceConfig(TokenizerConfig):
    """A SentencePiece model: an existing one, or one trained on the run's training text."""

    vocab_size: int = 8192
    """Vocabulary size, including 256 bytes and 4 special tokens; ignored with `path`."""
    model_type: Literal["bpe", "unigram"] = "bpe"
    """Byte-pair encoding (arXiv:1508.07909) or a unigram model (arXiv:1804.10959)."""
    split_digits: bool = True
    """Encode each digit as a separate token."""
    character_coverage: float = 0.9995
    """Share of the text's characters that get entries; the rest are encoded as bytes."""
    sample_bytes: int = 64 << 20
    """Maximum training text in bytes: a sample of the training documents in the first 32 times as
    much text."""
    path: str | None = None
    """An existing .model file to use instead of training one."""
    kind: Literal["sentencepiece"] = "sentencepiece"
    endings: ClassVar[tuple[str, ...]] = (".model",)

    def problems(self) -> list[str]:
        if self.path is not None:
            return []
        low, coverage = LOWEST_COVERAGE, self.character_coverage
        checks = {
            f"vocab_size: {self.vocab_size} is less than the {SMALLEST_VOCABULARY} of bytes and "
            "special tokens alone": self.vocab_size >= SMALLEST_VOCABULARY,
            f"sample_bytes: {self.sample_bytes} is not positive": self.sample_bytes > 0,
            f"character_coverage: {coverage} is not in [{low}, 1]": low <= coverage <= 1,
        }
        return [problem for problem, passed in checks.items() if not passed]

    def open(self) -> "Tokenizer | None":
        from llmjax.data.tokenizers.sentencepiece import SentencePieceTokenizer

        if self.path is None:
            return None
        return SentencePieceTokenizer.from_file(Path(self.path).expanduser())

    def train(self, texts: Iterable[str], special_tokens: tuple[str, ...] = ()) -> "Tokenizer":
        from llmjax.data.tokenizers.sentencepiece import SentencePieceTokenizer, train_sentencepiece

        return SentencePieceTokenizer(train_sentencepiece(self, texts, special_tokens))

    @staticmethod
    def load(folder: Path, description: Mapping[str, Any], template: str | None) -> "Tokenizer":
        from llmjax.data.tokenizers.sentencepiece import MODEL_FILE, SentencePieceTokenizer

        return SentencePieceTokenizer.from_file(folder / MODEL_FILE, template)


@dataclass(frozen=True)
class HuggingFaceTokenizerConfig(TokenizerConfig):
    """A Hugging Face tokenizer.json, or a folder with one."""

    path: str
    """The file or folder."""
    bos_token: str | None = None
    """None: from tokenizer_config.json in the same folder, else a well-known name."""
    eos_token: str | None = None
    """As bos_token; if a model has only one of the two, it serves as both."""
    pad_token: str | None = None
    """As bos_token; EOS if there is none (padding has weight zero)."""
    kind: Literal["huggingface"] = "huggingface"
    endings: ClassVar[tuple[str, ...]] = (".json",)

    def open(self) -> "Tokenizer":
        from llmjax.data.tokenizers.huggingface.tokenizer import HuggingFaceTokenizer

        names = {key: getattr(self, key) for key in ("bos_token", "eos_token", "pad_token")}
        return HuggingFaceTokenizer.from_file(Path(self.path).expanduser(), names)

    @staticmethod
    def load(folder: Path, description: Mapping[str, Any], template: str | None) -> "Tokenizer":
        from llmjax.data.tokenizers.huggingface.tokenizer import HuggingFaceTokenizer

        return HuggingFaceTokenizer.from_folder(folder, description, template)


@dataclass(frozen=True)
class BytesConfig(TokenizerConfig):
    """UTF-8 bytes as tokens: 256, and 8 special ones."""

    kind: Literal["bytes"] = "bytes"

    def open(self) -> "Tokenizer":
        from llmjax.data.tokenizers.table import BytesTokenizer

        return BytesTokenizer()

    @staticmethod
    def load(folder: Path, description: Mapping[str, Any], template: str | None) -> "Tokenizer":
        from llmjax.data.tokenizers.table import BytesTokenizer

        return BytesTokenizer(chat_template=template)
