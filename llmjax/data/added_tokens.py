"""Tokens that the files beside a tokenizer.json add to it."""

import json
from collections.abc import Iterator, Sequence

import tokenizers

from llmjax.data.huggingface_file import compact
from llmjax.data.tokenizer_facts import AddedToken, Facts
from llmjax.data.tokenizer_limits import MAX_ADDED
from llmjax.errors import UserError


def add_tokens(inner: tokenizers.Tokenizer, facts: Facts, rows: int | None = None) -> bytes | None:
    """Adds what the files of `facts` name and the tokenizer lacks, as Transformers does.

    Args:
      inner: the tokenizer; is changed.
      facts: the files beside it.
      rows: of the model's embedding: tokens beyond them are left out. None: all are kept.

    Returns:
      The tokenizer.json with them; None where there was nothing to add.

    Raises:
      UserError: there are too many, or one would get another id than its file gives it.
    """
    there = {token.content for token in inner.get_added_tokens_decoder().values()}
    missing = [token for token in facts.added_tokens() if token.content not in there]
    if len(missing) > MAX_ADDED:
        reason = f"adds {len(missing):,} tokens, and at most {MAX_ADDED:,} are added"
        raise UserError(facts.folder, reason, "use another tokenizer")
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
    return compact(json.loads(inner.to_str())) if kept else None


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
