"""The lists of tokens, types, merges and scores in a GGUF file's metadata."""

from typing import Any, NoReturn

import numpy as np
from tokenizers import AddedToken

from llmjax.convert.gguf.file import GgufFile
from llmjax.data.tokenizers.huggingface.from_sentencepiece import merges_of
from llmjax.errors import UserError

UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 2, 3, 4, 5, 6
"""Types of token."""


class Vocabulary:
    """The lists, checked against each other."""

    def __init__(self, file: GgufFile):
        self.file = file
        self.kind = self.word("model")
        tokens = self.key("tokens")
        tokens = list(tokens) if isinstance(tokens, list) else None
        if not tokens:
            self.fail("carries no tokenizer")
        self.tokens: list[str] = tokens
        self.ids = {token: i for i, token in enumerate(tokens)}
        if len(self.ids) != len(tokens):
            self.fail("has a token twice in its vocabulary")
        rows = file.tensors["token_embd.weight"].shape[0] if file.tensors else len(tokens)
        if len(tokens) > rows:
            self.fail(f"has {len(tokens)} tokens but {rows} rows in token_embd.weight")
        types = self.key("token_type")
        self.types = np.ones(len(tokens), int) if types is None else np.asarray(types)
        if self.types.shape != (len(tokens),) or self.types.dtype.kind not in "iu":
            self.fail("has not one token type for each token")
        while self.types[-1] == UNUSED and tokens[-1].startswith("[PAD"):  # rows without a token
            del self.ids[tokens.pop()]
            self.types = self.types[:-1]

    def fail(self, why: str) -> NoReturn:
        raise UserError(self.file.path, why)

    def key(self, name: str) -> Any:
        return self.file.metadata.get(f"tokenizer.ggml.{name}")

    def word(self, name: str) -> str | None:
        """A key that is a word; None where it is not there."""
        value = self.key(name)
        if value is not None and not isinstance(value, str):
            self.fail(f"has a tokenizer.ggml.{name} that is no word")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """A key that is on or off."""
        value = self.key(name)
        if value is not None and not isinstance(value, int):
            self.fail(f"has a tokenizer.ggml.{name} that is neither true nor false")
        return default if value is None else bool(value)

    def special(self, name: str) -> str | None:
        """The token that an id of the metadata names."""
        token = self.key(f"{name}_token_id")
        if token is None:
            return None
        if not isinstance(token, int):
            self.fail(f"names its {name} token by no number")
        if token == 2**32 - 1:
            return None
        if not 0 <= token < len(self.tokens):
            self.fail(f"names {token} as its {name} token, of {len(self.tokens)}")
        return self.tokens[token]

    def named(self) -> dict[str, str]:
        """bos_token, eos_token and so on, as far as the file names them."""
        roles = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad", "mask": "mask"}
        found = {f"{ours}_token": self.special(theirs) for theirs, ours in roles.items()}
        return {role: token for role, token in found.items() if token is not None}

    def ends(self) -> list[int]:
        """Tokens that end a text, a turn or a message; the end of a text is the first."""
        named = (self.special(role) for role in ("eos", "eot", "eom"))
        return list(dict.fromkeys(self.ids[token] for token in named if token is not None))

    def added(self) -> list[AddedToken]:
        """Tokens that are found in a text before anything else."""
        named = set(self.named().values())
        found = []
        for token, kind in zip(self.tokens, self.types.tolist(), strict=True):
            special = kind in (CONTROL, UNKNOWN) or token in named
            if special or kind == USER_DEFINED:
                found.append(AddedToken(token, special=special, normalized=False))
        return found

    def merges(self) -> list[tuple[str, str]]:
        """The pairs that byte-level BPE joins, first ones first."""
        lines = self.key("merges")
        if not isinstance(lines, list):
            self.fail("has a byte-level tokenizer without merges")
        found = []
        for line in lines:
            left, _, right = line.partition(" ")
            if not {left, right, left + right} <= self.ids.keys():
                self.fail(f"has a merge {line!r} of tokens that are not in its vocabulary")
            found.append((left, right))
        return found

    def scores(self) -> np.ndarray:
        """SentencePiece's of each token; higher is better."""
        given = self.key("scores")
        found = np.asarray([] if given is None else given)[: len(self.tokens)]
        if found.shape != (len(self.tokens),) or found.dtype.kind not in "fi":
            self.fail("has a SentencePiece tokenizer without a score for each token")
        if not np.isfinite(found).all():
            self.fail("has a token whose score is not a number")
        return found.astype(np.float64)

    def scored_merges(self) -> list[tuple[str, str]]:
        """The same from SentencePiece's scores: what joins into a better piece is joined first."""
        scores = self.scores().tolist()
        special = (UNKNOWN, CONTROL, BYTE)
        return merges_of(
            {token: scores[i] for token, i in self.ids.items() if self.types[i] not in special}
        )
