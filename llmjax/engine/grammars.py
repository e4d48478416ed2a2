"""Structured output: which tokens keep a text within a JSON schema, a regular expression or a
grammar. llguidance (the extra `serve`) computes them.
"""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError

LARGEST = 1 << 16
"""Characters of a schema, an expression or a grammar."""


@dataclass(frozen=True)
class JsonSchema:
    """JSON that is valid under a schema; a schema that allows everything is any JSON."""

    schema: str
    """As JSON."""


@dataclass(frozen=True)
class Regex:
    """A regular expression in the syntax of Rust's regex crate, which the whole text matches."""

    pattern: str


@dataclass(frozen=True)
class Choice:
    """One of several texts."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Lark:
    """A context-free grammar in llguidance's variant of Lark's syntax, which begins at `start`."""

    grammar: str


Grammar: TypeAlias = JsonSchema | Regex | Choice | Lark


class Matcher:
    """Follows one text through a grammar."""

    def __init__(self, matcher: Any, size: int):
        self._matcher, self._size = matcher, size

    def accept(self, token: int) -> None:
        """Adds a token that was allowed; one that ends the text changes nothing."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)

    def allowed(self, ends: Sequence[int]) -> np.ndarray:
        """bool [vocab]: the tokens that may follow; those of `ends` where the text is complete."""
        matcher = self._matcher
        if matcher.is_stopped() or matcher.is_error():
            mask = np.zeros(self._size, np.bool_)
        else:
            bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
            mask = np.unpackbits(bits, bitorder="little")[: self._size].astype(np.bool_)
        mask[list(ends)] = matcher.is_accepting() or not mask.any()
        return mask


class GrammarCompiler:
    """Compiles grammars for the tokens of one model."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    def matcher(self, grammar: Grammar) -> Matcher:
        """A matcher at the start of a text.

        Raises:
          UserError: llguidance is not installed; or the grammar is not valid, or too large.
        """
        text = self._compiled(grammar)
        from llguidance import LLMatcher

        found = LLMatcher(self._vocabulary, text, log_level=0)
        if found.is_error():
            raise _invalid(grammar, found.get_error())
        return Matcher(found, self._tokenizer.vocab_size)

    def _compiled(self, grammar: Grammar) -> str:
        """The grammar in llguidance's form."""
        if importlib.util.find_spec("llguidance") is None:
            fix = "pip install 'llmjax[serve]'"
            raise UserError("structured output", "llguidance is not installed", fix)
        from llguidance import LLMatcher

        source = _source(grammar)
        if len(source) > LARGEST:
            reason = f"has {len(source)} characters, of at most {LARGEST}"
            raise UserError(_name(grammar), reason)
        try:
            if isinstance(grammar, JsonSchema):
                text = LLMatcher.grammar_from_json_schema(grammar.schema)
            elif isinstance(grammar, Regex):
                text = LLMatcher.grammar_from_regex(grammar.pattern)
            else:
                text = LLMatcher.grammar_from_lark(source)
        except ValueError as error:
            raise _invalid(grammar, str(error)) from error
        problem = LLMatcher.validate_grammar(text, self._vocabulary)
        if problem and not problem.startswith("WARNING"):
            raise _invalid(grammar, problem)
        return str(text)

    @cached_property
    def _vocabulary(self) -> Any:
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(_Pieces(self._tokenizer)))


class _Pieces:
    """A tokenizer as llguidance reads it."""

    def __init__(self, tokenizer: Tokenizer):
        self._encode = tokenizer.encode
        self.eos_token_id, self.bos_token_id = tokenizer.eos_id, tokenizer.bos_id
        special = {*tokenizer.special_tokens.values(), *tokenizer.stop_ids, tokenizer.eos_id}
        pieces = [tokenizer.piece_bytes(token) for token in range(tokenizer.vocab_size)]
        special |= {token for token, piece in enumerate(pieces) if not piece}
        self.special_token_ids = sorted(special)
        # The byte 0xff, which no text has, marks what is not text.
        self.tokens = [
            b"\xff<%d>" % token if token in special else piece for token, piece in enumerate(pieces)
        ]

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text.decode() if isinstance(text, bytes) else text)


def _source(grammar: Grammar) -> str:
    if isinstance(grammar, JsonSchema):
        return grammar.schema
    if isinstance(grammar, Regex):
        return grammar.pattern
    if isinstance(grammar, Lark):
        return grammar.grammar
    if not grammar.texts or not all(grammar.texts):
        raise UserError(_name(grammar), "has no texts, or an empty one")
    return "start: " + " | ".join(json.dumps(text) for text in grammar.texts)


def _name(grammar: Grammar) -> str:
    names = {JsonSchema: "JSON schema", Regex: "regular expression", Choice: "choices"}
    return names.get(type(grammar), "grammar")


def _invalid(grammar: Grammar, reason: str) -> UserError:
    return UserError(_name(grammar), f"cannot be used: {' '.join(reason.split())[:300]}")
