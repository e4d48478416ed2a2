"""Tokens that the files beside a tokenizer.json add to it."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import tokenizers

from llmjax.data.tokenizers.huggingface.file import compact, open_tokenizer
from llmjax.data.tokenizers.limits import MAX_ADDED, OTHER
from llmjax.data.tokenizers.metadata import AddedToken, Facts
from llmjax.errors import UserError


def completed(
    content: bytes, spec: dict[str, Any], facts: Facts, rows: int | None = None
) -> tuple[bytes, dict[str, Any]]:
    """A tokenizer.json with the tokens that the files of `facts` name and it lacks, as Transformers
    adds them.

    Args:
      content: of the file.
      spec: its value.
      facts: the files beside it.
      rows: of the model's embedding: tokens beyond them are left out. None: all are kept.

    Returns:
      Content and value of the file with the tokens; what was given where none is to be added.

    Raises:
      UserError: there are too many, or one would get another id than its file gives it.
    """
    there = {token["content"] for token in spec["added_tokens"]}
    missing = [token for token in facts.added_tokens() if token.content not in there]
    if not missing:
        return content, spec
    if len(missing) > MAX_ADDED:
        reason = f"adds {len(missing):,} tokens, and at most {MAX_ADDED:,} are added"
        raise UserError(facts.folder, reason, OTHER)
    inner = open_tokenizer(content)
    kept = list(_within(inner, missing, rows))
    for token in kept:
        inner.add_tokens([tokenizers.AddedToken(token.content, **_flags(token))])
        number = inner.token_to_id(token.content)
        if token.id is not None and number != token.id:
            raise UserError(
                facts.folder,
                f"gives the added token {token.content!r} the id {token.id}, the vocabulary has "
                f"room for it at {number}",
                "check added_tokens.json and tokenizer_config.json",
            )
    if not kept:
        return content, spec
    spec = json.loads(inner.to_str())
    return compact(spec), spec


def _within(
    inner: tokenizers.Tokenizer, tokens: Sequence[AddedToken], rows: int | None
) -> Iterator[AddedToken]:
    """Those that have a row; one without an id gets that of its vocabulary entry, or the next."""
    free = inner.get_vocab_size(with_added_tokens=False)
    free = max(free, *(number + 1 for number in inner.get_added_tokens_decoder()), 0)
    for token in tokens:
        number = inner.token_to_id(token.content) if token.id is None else token.id
        number = free if number is None else number
        if rows is None or number < rows:
            free = max(free, number + 1)
            yield token


def _flags(token: AddedToken) -> dict[str, bool]:
    return {"normalized": False, **token.flags}
