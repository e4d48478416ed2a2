"""Tokenizers by kind: how each is configured, opened, trained, and read back.

Cheap to import: the libraries are imported when a tokenizer is opened.
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
"""Entries that every SentencePiece model has: bytes, padding, BOS, EOS and unknown."""
LOWEST_COVERAGE = 0.98
"""Share of characters below which SentencePiece refuses to train."""


class TokenizerConfig(ABC):
    """What tokenizer to use. Subclasses are frozen dataclasses."""

    endings: ClassVar[tuple[str, ...]] = ()
    """Endings of file names that mean this kind on the command line."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name in TOKENIZERS, in configs and in stored descriptions."""

    @property
    def sample_bytes(self) -> int:
        """Trained on at most this much text; of those that are trained."""
        return 0

    def problems(self) -> list[str]:
        """Everything wrong with the values, a line each; nothing is read from disk."""
        return []

    @abstractmethod
    def open(self) -> "Tokenizer | None":
        """The tokenizer; None where it has yet to be trained.

        Raises:
          UserError: a file that it names is missing or cannot be read.
        """

    def train(self, texts: Iterable[str], special_tokens: tuple[str, ...] = ()) -> "Tokenizer":
        """A tokenizer trained on these texts.

        Args:
          texts: at least one; the same texts give the same tokenizer.
          special_tokens: beside padding, BOS, EOS and unknown.

        Raises:
          UserError: there is no text, or the vocabulary is too large for it.
        """
        raise TypeError(f"a tokenizer of kind {self.kind} is not trained")

    @staticmethod
    @abstractmethod
    def load(folder: Path, description: Mapping[str, Any], template: str | None) -> "Tokenizer":
        """Reads back what a tokenizer of this kind saved.

        Args:
          folder: whose files are as they were written.
          description: see `read_description`.
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
"""For config fields."""


def load_tokenizer(folder: Path | str) -> "Tokenizer":
    """Reads back what a tokenizer's `save` wrote (a run's tokenizer/ folder).

    Raises:
      UserError: there is no tokenizer, it is of another format, or it is damaged.
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
    """A SentencePiece model: trained on the run's training text, or an existing one."""

    vocab_size: int = 8192
    """Entries with the 256 bytes and 4 special tokens; ignored with `path`."""
    model_type: Literal["bpe", "unigram"] = "bpe"
    """Merged byte pairs (arXiv:1508.07909), or a pruned unigram model (arXiv:1804.10959)."""
    split_digits: bool = True
    """Every digit is a token of its own."""
    character_coverage: float = 0.9995
    """Share of the text's characters with an entry of their own; the rest is encoded in bytes."""
    sample_bytes: int = 64 << 20
    """Trained on at most this much text: a sample, by hash, of the training documents among the
    first 32 times as many bytes."""
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
        return [problem for problem, fine in checks.items() if not fine]

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
    """A Hugging Face tokenizer.json (or the folder that holds one)."""

    path: str
    """The file or the folder."""
    bos_token: str | None = None
    """None: as the neighbouring tokenizer_config.json says, or a well-known name."""
    eos_token: str | None = None
    """As bos_token; a model with only one of the two uses it for both."""
    pad_token: str | None = None
    """As bos_token; without one, padding uses EOS (its weight is zero)."""
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
    """Every UTF-8 byte is a token: 256 of them and 8 special ones."""

    kind: Literal["bytes"] = "bytes"

    def open(self) -> "Tokenizer":
        from llmjax.data.tokenizers.table import BytesTokenizer

        return BytesTokenizer()

    @staticmethod
    def load(folder: Path, description: Mapping[str, Any], template: str | None) -> "Tokenizer":
        from llmjax.data.tokenizers.table import BytesTokenizer

        return BytesTokenizer(chat_template=template)
