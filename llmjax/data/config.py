"""What to read, how to tokenize it, how to batch it: frozen values, cheap to import."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from llmjax.errors import UserError
from llmjax.limits import MAX_BATCH_TOKENS

LARGEST_CHUNK = 1 << 26
"""chunk_bytes of a text source at most: four times as many are held in memory."""


@dataclass(frozen=True)
class EmbeddedSource:
    """Text that every Python carries: its language reference and standard library docstrings."""

    weight: float = 1.0
    """Share of the rows drawn from this source, relative to the other sources' weights."""
    kind: Literal["embedded"] = "embedded"


@dataclass(frozen=True)
class TextSource:
    """Plain text files, also .gz, .bz2, .xz and .zst."""

    paths: tuple[str, ...]
    """Files and globs (`**` goes through folders); a document's file order is the sorted order."""
    split: Literal["chunk", "file", "line"] = "chunk"
    """What a document is: a run of paragraphs, a whole file (held in memory), or a line."""
    chunk_bytes: int = 4096
    """With split="chunk": a document ends at the first blank line after this many UTF-8 bytes (or
    at a line end after twice as many, or after four times as many wherever that is)."""
    errors: Literal["strict", "replace"] = "strict"
    """Invalid UTF-8: refuse the file, or read each broken byte as U+FFFD."""
    weight: float = 1.0
    """Share of the rows drawn from this source, relative to the other sources' weights."""
    kind: Literal["text"] = "text"


@dataclass(frozen=True)
class JsonlSource:
    """Files with a JSON object per line, also .gz, .bz2, .xz and .zst; a line is a document."""

    paths: tuple[str, ...]
    """Files and globs (`**` goes through folders)."""
    field: str = "text"
    """The key whose string is the document."""
    errors: Literal["strict", "replace"] = "strict"
    """Invalid UTF-8: refuse the file, or read each broken byte as U+FFFD."""
    weight: float = 1.0
    """Share of the rows drawn from this source, relative to the other sources' weights."""
    kind: Literal["jsonl"] = "jsonl"


@dataclass(frozen=True)
class ParquetSource:
    """Parquet files, read row group by row group; a row is a document."""

    paths: tuple[str, ...]
    """Files and globs (`**` goes through folders)."""
    column: str = "text"
    """The column of strings; nulls are passed over."""
    weight: float = 1.0
    """Share of the rows drawn from this source, relative to the other sources' weights."""
    kind: Literal["parquet"] = "parquet"


@dataclass(frozen=True)
class TfdsSource:
    """A TensorFlow Datasets data set, read without TensorFlow."""

    name: str
    """As TFDS spells it: name, name/config, name/config:version."""
    split: str = "train"
    """A split, or a slice of one: "train[:10%]"."""
    field: str = "text"
    """The text feature; nested ones with slashes: "translation/en"."""
    data_dir: str | None = None
    """Where TFDS keeps its data sets; None: TFDS's default (~/tensorflow_datasets)."""
    weight: float = 1.0
    """Share of the rows drawn from this source, relative to the other sources' weights."""
    kind: Literal["tfds"] = "tfds"


@dataclass(frozen=True)
class HubSource:
    """A Hugging Face hub data set, streamed; needs the extra `hub`."""

    name: str
    """The repository: "owner/name"."""
    subset: str | None = None
    """The data set's configuration, where it has several."""
    split: str = "train"
    """Which of its splits."""
    field: str = "text"
    """The column of strings."""
    revision: str | None = None
    """A branch, tag or commit; None: the newest commit."""
    weight: float = 1.0
    """Share of the rows drawn from this source, relative to the other sources' weights."""
    kind: Literal["hub"] = "hub"


LEAST_VOCABULARY = 256 + 4
"""Entries that a SentencePiece model has in any case: bytes, padding, BOS, EOS and unknown."""
LEAST_COVERAGE = 0.98
"""Share of characters below which SentencePiece refuses to train."""

FileSource: TypeAlias = TextSource | JsonlSource | ParquetSource
Source: TypeAlias = (
    EmbeddedSource | TextSource | JsonlSource | ParquetSource | TfdsSource | HubSource
)


@dataclass(frozen=True)
class SentencePieceConfig:
    """A SentencePiece model: trained on the run's training text, or an existing one."""

    vocab_size: int = 8192
    """Entries with the 256 bytes and 4 special tokens; ignored with `path`."""
    model_type: Literal["bpe", "unigram"] = "bpe"
    """Merged byte pairs (arXiv:1508.07909), or a pruned unigram model (arXiv:1804.10959)."""
    split_digits: bool = True
    """Every digit is a token of its own."""
    character_coverage: float = 0.9995
    """Share of the text's characters with an entry of their own; the rest is spelt in bytes."""
    sample_bytes: int = 64 << 20
    """Trained on at most this much text: a sample, by hash, of the training documents among the
    first 32 times as many bytes."""
    path: str | None = None
    """An existing .model file to use instead of training one."""
    kind: Literal["sentencepiece"] = "sentencepiece"


@dataclass(frozen=True)
class HuggingFaceTokenizerConfig:
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


@dataclass(frozen=True)
class BytesConfig:
    """Every UTF-8 byte is a token: 256 of them and 8 special ones."""

    kind: Literal["bytes"] = "bytes"


TokenizerConfig: TypeAlias = SentencePieceConfig | HuggingFaceTokenizerConfig | BytesConfig


@dataclass(frozen=True)
class DataConfig:
    """From sources to global batches. A batch is a function of (corpus, this, seed, step) alone."""

    sources: tuple[Source, ...] = field(default_factory=lambda: (EmbeddedSource(),))
    """Mixed row by row in proportion to their weights."""
    batch_size: int = 16
    """Rows in a global batch, over all devices of all processes."""
    length: int = 256
    """Tokens in a row."""
    heldout_fraction: float = 0.05
    """Documents whose content hash falls below this share are never trained on. 0: none."""
    heldout_max_bytes: int = 1 << 20
    """At most this many UTF-8 bytes of each source are held out: those of lowest hash."""
    on_exhaustion: Literal["repeat", "stop", "error"] = "repeat"
    """When a source's epoch is over: reshuffle and go on, end the run, or refuse to go on."""
    cache_dir: str | None = None
    """Tokenized text; None: $LLMJAX_CACHE, else $XDG_CACHE_HOME/llmjax, else ~/.cache/llmjax."""
    workers: int = 0
    """Processes that tokenize. 0: one per CPU."""
    prefetch: int = 4
    """Batches made ready ahead of the step that takes them."""


def data_problems(config: DataConfig) -> list[str]:
    """Everything wrong with the values of `config`, a line each; nothing is read from disk."""
    weights = [source.weight for source in config.sources]
    tokens = config.batch_size * config.length
    checks = {
        "sources: give at least one": bool(config.sources),
        "sources: every weight must be a positive number": all(0 < w < 1e30 for w in weights),
        f"batch_size: {config.batch_size} is not positive": config.batch_size > 0,
        # Of one token nothing attends, and JAX 0.12 does not differentiate such rows on a mesh.
        f"length: {config.length} is less than 2, the shortest rows": config.length > 1,
        f"heldout_fraction: {config.heldout_fraction} is not in [0, 1)": (
            0 <= config.heldout_fraction < 1
        ),
        f"heldout_max_bytes: {config.heldout_max_bytes} is not positive": (
            config.heldout_max_bytes > 0
        ),
        f"batch_size: {config.batch_size} rows of {config.length} tokens are more than the "
        f"{MAX_BATCH_TOKENS} that a batch may have": tokens <= MAX_BATCH_TOKENS,
        f"workers: {config.workers} is negative": config.workers >= 0,
        f"prefetch: {config.prefetch} is not positive": config.prefetch > 0,
    }
    for source in config.sources:
        if isinstance(source, FileSource):
            checks[f"sources: a {source.kind} source names no paths"] = bool(source.paths)
            wrong = f"sources: paths {source.paths!r} is a string, not a tuple of strings"
            checks[wrong] = not isinstance(source.paths, str)
        if isinstance(source, TextSource):
            wrong = f"sources: chunk_bytes {source.chunk_bytes} is not positive"
            checks[wrong] = source.chunk_bytes > 0
            wrong = f"sources: chunk_bytes {source.chunk_bytes} is above {LARGEST_CHUNK}"
            checks[wrong] = source.chunk_bytes <= LARGEST_CHUNK
    return [f"data.{problem}" for problem, fine in checks.items() if not fine]


def tokenizer_problems(config: TokenizerConfig) -> list[str]:
    """Everything wrong with the values of `config`, a line each; nothing is read from disk."""
    if not isinstance(config, SentencePieceConfig) or config.path is not None:
        return []
    least = LEAST_COVERAGE
    checks = {
        f"vocab_size: {config.vocab_size} is less than the {LEAST_VOCABULARY} of bytes and special "
        "tokens alone": config.vocab_size >= LEAST_VOCABULARY,
        f"sample_bytes: {config.sample_bytes} is not positive": config.sample_bytes > 0,
        f"character_coverage: {config.character_coverage} is not in [{least}, 1]": (
            least <= config.character_coverage <= 1
        ),
    }
    return [f"tokenizer.{problem}" for problem, fine in checks.items() if not fine]


def check_data(config: DataConfig, tokenizer: TokenizerConfig | None = None) -> None:
    """Raises a UserError that lists every one of `data_problems`, and of `tokenizer_problems`."""
    problems = data_problems(config)
    if tokenizer is not None:
        problems += tokenizer_problems(tokenizer)
    if problems:
        raise UserError("config", "; ".join(problems))
