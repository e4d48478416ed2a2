"""Convert the tokenizer of a GGUF file to Transformers' files.

Pre-tokenizer names mean what they mean in llama.cpp (src/llama-vocab.cpp) and in the tokenizers
they are named after.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from llmjax.convert.gguf.file import GgufFile
from llmjax.data.tokenizers.huggingface.from_sentencepiece import merges_of
from llmjax.errors import UserError

UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 2, 3, 4, 5, 6
"""Token types."""


class Vocabulary:
    """The tokens, types, merges and scores of a file, checked for consistency."""

    def __init__(self, file: GgufFile):
        self.file = file
        self.kind = self.text("model")
        tokens = self.key("tokens")
        tokens = list(tokens) if isinstance(tokens, list) else None
        if not tokens:
            self.fail("has no tokenizer")
        self.tokens: list[str] = tokens
        self.ids = {token: i for i, token in enumerate(tokens)}
        if len(self.ids) != len(tokens):
            self.fail("has a duplicate token in its vocabulary")
        rows = file.tensors["token_embd.weight"].shape[0] if file.tensors else len(tokens)
        if len(tokens) > rows:
            self.fail(f"has {len(tokens)} tokens but {rows} rows in token_embd.weight")
        types = self.key("token_type")
        self.types = np.ones(len(tokens), int) if types is None else np.asarray(types)
        if self.types.shape != (len(tokens),) or self.types.dtype.kind not in "iu":
            self.fail("does not have one token type for each token")
        while self.types[-1] == UNUSED and tokens[-1].startswith("[PAD"):  # rows without a token
            del self.ids[tokens.pop()]
            self.types = self.types[:-1]

    def fail(self, why: str) -> NoReturn:
        raise UserError(self.file.path, why)

    def key(self, name: str) -> Any:
        return self.file.metadata.get(f"tokenizer.ggml.{name}")

    def text(self, name: str) -> str | None:
        """A key's string; None if it is missing."""
        value = self.key(name)
        if value is not None and not isinstance(value, str):
            self.fail(f"has a tokenizer.ggml.{name} that is not a string")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """A key's boolean value."""
        value = self.key(name)
        if value is not None and not isinstance(value, int):
            self.fail(f"has a tokenizer.ggml.{name} that is neither true nor false")
        return default if value is None else bool(value)

    def special(self, name: str) -> str | None:
        """The token of the key NAME_token_id; None if it is missing."""
        token = self.key(f"{name}_token_id")
        if token is None:
            return None
        if not isinstance(token, int):
            self.fail(f"has a {name}_token_id that is not a number")
        if token == 2**32 - 1:
            return None
        if not 0 <= token < len(self.tokens):
            self.fail(f"has {name}_token_id {token}, of {len(self.tokens)} tokens")
        return self.tokens[token]

    def named(self) -> dict[str, str]:
        """The file's special tokens by role (bos_token, eos_token, ...)."""
        roles = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad", "mask": "mask"}
        tokens = {f"{name}_token": self.special(key) for key, name in roles.items()}
        return {role: token for role, token in tokens.items() if token is not None}

    def ends(self) -> list[int]:
        """Ids of the tokens that end a text, a turn or a message, in this order."""
        tokens = (self.special(role) for role in ("eos", "eot", "eom"))
        return list(dict.fromkeys(self.ids[token] for token in tokens if token is not None))

    def added(self) -> list[AddedToken]:
        """Tokens that are split off a text before pre-tokenization."""
        named = set(self.named().values())
        added = []
        for token, kind in zip(self.tokens, self.types.tolist(), strict=True):
            special = kind in (CONTROL, UNKNOWN) or token in named
            if special or kind == USER_DEFINED:
                added.append(AddedToken(token, special=special, normalized=False))
        return added

    def merges(self) -> list[tuple[str, str]]:
        """The merges of byte-level BPE, in order."""
        lines = self.key("merges")
        if not isinstance(lines, list):
            self.fail("has a byte-level tokenizer without merges")
        merges = []
        for line in lines:
            left, _, right = line.partition(" ")
            if not {left, right, left + right} <= self.ids.keys():
                self.fail(f"has a merge {line!r} whose tokens are not in its vocabulary")
            merges.append((left, right))
        return merges

    def scores(self) -> np.ndarray:
        """SentencePiece scores, float64 [tokens]; higher is better."""
        stored = self.key("scores")
        scores = np.asarray([] if stored is None else stored)[: len(self.tokens)]
        if scores.shape != (len(self.tokens),) or scores.dtype.kind not in "fi":
            self.fail("has a SentencePiece tokenizer without a score for each token")
        if not np.isfinite(scores).all():
            self.fail("has a token whose score is not finite")
        return scores.astype(np.float64)

    def scored_merges(self) -> list[tuple[str, str]]:
        """Merges equivalent to SentencePiece's scores: better pieces are merged first."""
        scores = self.scores().tolist()
        special = (UNKNOWN, CONTROL, BYTE)
        return merges_of(
            {token: scores[i] for token, i in self.ids.items() if self.types[i] not in special}
        )


NEVER = -1e6
"""Score of a token that must never be used."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{digits}}|{_REST}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PreTokenizer:
    """How to split text into words before byte-level merges."""

    pattern: str | None = None
    """Regular expression that matches words; None for GPT-2's."""
    single_digits: bool = False
    """Whether to split digits individually first."""
    whole_words: bool = False
    """Whether words in the vocabulary skip the merges."""
    nfc: bool = False
    """Whether to normalise text to NFC first."""
    adds_bos: bool = False
    """Whether to prepend BOS if the file does not say."""


_LLAMA3 = PreTokenizer(_WORDS.replace("{digits}", "{1,3}"), whole_words=True, adds_bos=True)
_QWEN2 = PreTokenizer(_WORDS.replace("{digits}", ""), nfc=True)
_CL100K = PreTokenizer(_WORDS.replace("{digits}", "{1,3}"))
PRE_TOKENIZERS = {
    "gpt-2": PreTokenizer(),
    "default": PreTokenizer(),
    "olmo": PreTokenizer(),
    "phi-2": PreTokenizer(),
    "smollm": PreTokenizer(single_digits=True),
    "starcoder": PreTokenizer(single_digits=True),
    "refact": PreTokenizer(single_digits=True),
    "command-r": PreTokenizer(single_digits=True),
    "codeshell": PreTokenizer(single_digits=True),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "dbrx": _CL100K,
    "smaug-bpe": _CL100K,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "stablelm2": PreTokenizer(_WORDS.replace("{digits}", "")),
    "tekken": PreTokenizer(_CASED, whole_words=True, adds_bos=True),
}
"""Values of tokenizer.ggml.pre."""

DEFAULT_PRE = {"qwen2": "qwen2", "qwen3": "qwen2", "smollm3": "llama-bpe", "olmo2": "dbrx"}
"""Default pre-tokenizer by architecture, for old files that do not name it; otherwise GPT-2's."""


def tokenizer_files(file: GgufFile) -> dict[str, bytes]:
    """The tokenizer's files, by name.

    They are tokenizer.json, tokenizer_config.json and, if the file has their content,
    chat_template.jinja and generation_config.json (with several end-of-text tokens).

    Raises:
      UserError: the file has no tokenizer, or one that is unsupported or inconsistent.
    """
    vocabulary = Vocabulary(file)
    kinds: dict[Any, Callable[[Vocabulary], tuple[tokenizers.Tokenizer, bool]]] = {
        "gpt2": _byte_level,
        "llama": _sentencepiece,
        "t5": _unigram,
    }
    if vocabulary.kind is None or vocabulary.kind not in kinds:
        vocabulary.fail(f"has a tokenizer of kind {vocabulary.kind!r}, not gpt2, llama or t5")
    tokenizer, adds_bos = kinds[vocabulary.kind](vocabulary)
    tokenizer.add_tokens(vocabulary.added())
    first = vocabulary.flag("add_bos_token", adds_bos)
    last = vocabulary.flag("add_eos_token", False)
    _surround(tokenizer, vocabulary, first, last)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **vocabulary.named(),
        "add_bos_token": first,
        "add_eos_token": last,
        "clean_up_tokenization_spaces": False,
    }
    files = {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False).encode(),
    }
    template = file.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        files["chat_template.jinja"] = template.encode()
    ends = vocabulary.ends()
    if len(ends) > 1:
        files["generation_config.json"] = json.dumps({"eos_token_id": ends}).encode()
    return files


def _byte_level(vocabulary: Vocabulary) -> tuple[tokenizers.Tokenizer, bool]:
    architecture = str(vocabulary.file.metadata.get("general.architecture"))
    name = vocabulary.text("pre") or DEFAULT_PRE.get(architecture, "gpt-2")
    if name not in PRE_TOKENIZERS:
        vocabulary.fail(f"has a pre-tokenizer {name!r}; supported are {', '.join(PRE_TOKENIZERS)}")
    pre_tokenizer = PRE_TOKENIZERS[name]
    bpe = models.BPE(
        vocab=vocabulary.ids,
        merges=vocabulary.merges(),
        ignore_merges=pre_tokenizer.whole_words,
    )
    tokenizer = tokenizers.Tokenizer(bpe)
    if pre_tokenizer.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizer_steps(
        pre_tokenizer, vocabulary.flag("add_space_prefix", False)
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, pre_tokenizer.adds_bos


def pre_tokenizer_steps(pre_tokenizer: PreTokenizer, prefix: bool) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer steps of tokenizer.json; `prefix` prepends a space to the text."""
    steps: list[Any] = []
    if pre_tokenizer.single_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if pre_tokenizer.pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pre_tokenizer.pattern), behavior="isolated"))
    gpt2_pattern = pre_tokenizer.pattern is None
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=gpt2_pattern))
    return pre_tokenizers.Sequence(steps)


def _sentencepiece(vocabulary: Vocabulary) -> tuple[tokenizers.Tokenizer, bool]:
    bpe = models.BPE(
        vocab=vocabulary.ids,
        merges=vocabulary.scored_merges(),
        unk_token=vocabulary.special("unknown"),
        fuse_unk=True,
        byte_fallback=bool((vocabulary.types == BYTE).any()),
    )
    return _spaced(bpe, vocabulary), True


def _unigram(vocabulary: Vocabulary) -> tuple[tokenizers.Tokenizer, bool]:
    if vocabulary.key("precompiled_charsmap") is not None:
        vocabulary.fail("has a tokenizer that replaces characters, which is not supported")
    if vocabulary.flag("remove_extra_whitespaces", False):
        vocabulary.fail("has a tokenizer that drops spaces, which is not supported")
    plain = ~np.isin(vocabulary.types, (UNKNOWN, CONTROL, BYTE, UNUSED))
    scores = np.where(plain, vocabulary.scores(), NEVER).tolist()
    unknown = vocabulary.special("unknown")
    model = models.Unigram(
        list(zip(vocabulary.tokens, scores, strict=True)),
        unk_id=None if unknown is None else vocabulary.ids[unknown],
        byte_fallback=bool((vocabulary.types == BYTE).any()),
    )
    return _spaced(model, vocabulary), False


def _spaced(model: models.Model, vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """A tokenizer that writes spaces as U+2581, like SentencePiece."""
    space, prefix = "\u2581", vocabulary.flag("add_space_prefix", True)
    tokenizer = tokenizers.Tokenizer(model)
    spaces = normalizers.Replace(" ", space)
    before = [normalizers.Prepend(space)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*before, spaces])
    after = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    return tokenizer


def _surround(
    tokenizer: tokenizers.Tokenizer, vocabulary: Vocabulary, first: bool, last: bool
) -> None:
    """Add BOS before and EOS after every text, as the file asks."""
    bos, eos = vocabulary.special("bos"), vocabulary.special("eos")
    before = [bos] if first and bos is not None else []
    after = [eos] if last and eos is not None else []
    if before or after:
        special = {token: vocabulary.ids[token] for token in (*before, *after)}
        single = [*before, "$A", *after]
        pair = [*single, *(f"{part}:1" for part in [*before, "$B", *after])]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=list(special.items())
        )
