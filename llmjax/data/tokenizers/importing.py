"""A published model's tokenizer, from whichever files it has."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers

from llmjax.data.tokenizers import older as older_tokenizers
from llmjax.data.tokenizers import sentencepiece_import
from llmjax.data.tokenizers.added_tokens import completed
from llmjax.data.tokenizers.huggingface.file import (
    TOKENIZER_FILE,
    Refusal,
    compact,
    parse_tokenizer_json,
    read_tokenizer_json,
    tokens_of,
)
from llmjax.data.tokenizers.huggingface.tokenizer import HuggingFaceTokenizer
from llmjax.data.tokenizers.limits import check_limits
from llmjax.data.tokenizers.metadata import Facts
from llmjax.errors import UserError

# Older files, in the order in which they are looked for, and who reads them.
OLDER: dict[tuple[str, ...], Callable[[Facts], tokenizers.Tokenizer]] = {
    ("vocab.txt",): older_tokenizers.wordpiece,
    ("vocab.json", "merges.txt"): older_tokenizers.byte_level,
    ("spiece.model",): sentencepiece_import.sentencepiece,
    ("sentencepiece.bpe.model",): sentencepiece_import.sentencepiece,
    ("tokenizer.model",): sentencepiece_import.sentencepiece,
}


def import_tokenizer(folder: Path | str, rows: int | None = None) -> HuggingFaceTokenizer:
    """The tokenizer of a Hugging Face folder: its tokenizer.json, or one made of older files.

    Special tokens, ends of text and the chat template are read from the files beside it. Merges
    that a file has left out at random (`dropout`) are never left out.

    Args:
      folder: the folder.
      rows: of the model's embedding. Added tokens beyond them are left out: Gemma 3's tokenizer has
        one for images, which its models of text alone do not. None: all are kept.

    Raises:
      UserError: there is none, its files are broken or contradict each other, or they ask for more
        than the limits of tokenizer_limits.
    """
    folder = Path(folder)
    facts = Facts.read(folder)
    path = folder / TOKENIZER_FILE
    found = next((names for names in OLDER if all((folder / n).is_file() for n in names)), None)
    if path.is_file():
        content, spec = _within(read_tokenizer_json(path), rows, path)
    elif found is not None:
        path = folder / found[0]
        with Refusal(path, "cannot be read as a tokenizer"):
            spec = json.loads(OLDER[found](facts).to_str())
            check_limits(spec, path)
            content = compact(spec)
    else:
        known = ", ".join([TOKENIZER_FILE, *(" and ".join(names) for names in OLDER)])
        raise UserError(folder, "holds no tokenizer", f"one of these files is needed: {known}")
    with Refusal(path):
        content, spec = completed(content, spec, facts, rows)
        vocab = tokens_of(spec)
    return HuggingFaceTokenizer(
        content,
        facts.names(vocab),
        path,
        stops=facts.stops(vocab),
        chat_template=facts.chat_template(),
        spec=spec,
    )


def _within(content: bytes, rows: int | None, path: Path) -> tuple[bytes, dict[str, Any]]:
    """A tokenizer.json without added tokens beyond these rows, and without dropout; as it came
    where it has neither."""
    spec = parse_tokenizer_json(content, path)
    with Refusal(path):
        kept = [token for token in spec["added_tokens"] if rows is None or token["id"] < rows]
        if len(kept) == len(spec["added_tokens"]) and spec["model"].get("dropout") is None:
            return content, spec
    model = spec["model"] | ({"dropout": None} if "dropout" in spec["model"] else {})
    spec = spec | {"added_tokens": kept, "model": model}
    return compact(spec), spec
