"""A published model's tokenizer, from whichever files it has."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import tokenizers

from llmjax.data import older_tokenizers, sentencepiece_import
from llmjax.data.huggingface_tokenizer import TOKENIZER_FILE, HuggingFaceTokenizer, Refusal
from llmjax.data.tokenizer_facts import AddedToken, Facts
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

    Special tokens, ends of text and the chat template are read from the files beside it.

    Args:
      folder: the folder.
      rows: of the model's embedding. Added tokens beyond them are left out: Gemma 3's tokenizer has
        one for images, which its models of text alone do not. None: all are kept.

    Raises:
      UserError: there is none, or its files are broken or contradict each other.
    """
    folder = Path(folder)
    facts = Facts.read(folder)
    path = folder / TOKENIZER_FILE
    found = next((names for names in OLDER if all((folder / n).is_file() for n in names)), None)
    if path.is_file():
        try:
            content = _within(path.read_bytes(), rows, path)
        except OSError as error:
            raise UserError(path, f"cannot be read: {error.strerror}", "check it") from error
        with Refusal(path):
            inner = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
    elif found is not None:
        path, content = folder / found[0], b""
        with Refusal(path, "cannot be read as a tokenizer"):
            inner = OLDER[found](facts)
    else:
        known = ", ".join([TOKENIZER_FILE, *(" and ".join(names) for names in OLDER)])
        raise UserError(folder, "holds no tokenizer", f"one of these files is needed: {known}")
    added = [token for token in facts.added_tokens() if rows is None or token.id < rows]
    if _add(inner, added, facts.folder) or not content:
        content = _compact(inner)
    vocab = inner.get_vocab(with_added_tokens=True)
    return HuggingFaceTokenizer(
        content,
        facts.names(vocab),
        path,
        stops=facts.stops(vocab),
        chat_template=facts.chat_template(),
    )


def _add(inner: tokenizers.Tokenizer, tokens: Sequence[AddedToken], folder: Path) -> bool:
    """Adds the tokens that the tokenizer lacks; whether there were any."""
    there = {token.content for token in inner.get_added_tokens_decoder().values()}
    missing = [token for token in tokens if token.content not in there]
    for token in missing:
        flags = {"normalized": False, **token.flags}
        inner.add_tokens([tokenizers.AddedToken(token.content, **flags)])
        number = inner.token_to_id(token.content)
        if number != token.id:
            raise UserError(
                folder,
                f"gives the added token {token.content!r} the id {token.id}, the vocabulary has "
                f"room for it at {number}",
                "check added_tokens.json and tokenizer_config.json",
            )
    return bool(missing)


def _within(content: bytes, rows: int | None, path: Path) -> bytes:
    """A tokenizer.json without added tokens beyond these rows; as it came where there are none."""
    with Refusal(path):
        spec = json.loads(content)
        kept = [token for token in spec["added_tokens"] if rows is None or token["id"] < rows]
    if len(kept) == len(spec["added_tokens"]):
        return content
    spec["added_tokens"] = kept
    return json.dumps(spec, ensure_ascii=False, separators=(",", ":")).encode()


def _compact(inner: tokenizers.Tokenizer) -> bytes:
    spec = json.loads(inner.to_str())
    return json.dumps(spec, ensure_ascii=False, separators=(",", ":")).encode()
