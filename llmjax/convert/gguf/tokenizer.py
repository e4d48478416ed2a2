"""The tokenizer that a GGUF file carries, as the files that Transformers would have.

What a pre-tokenizer's name stands for is stated by llama.cpp (src/llama-vocab.cpp) and by the
tokenizers that it names.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from llmjax.convert.gguf.file import GgufFile
from llmjax.data.tokenizers.sentencepiece_import import merges_of
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


NEVER = -1e6
"""The score of a token that no text is spelt with."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{digits}}|{_REST}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Splitting:
    """How text is cut before byte-level merges."""

    pattern: str | None = None
    """A regular expression whose matches are the words; None: GPT-2's."""
    single_digits: bool = False
    """Whether digits are cut off one by one first."""
    whole_words: bool = False
    """Whether a word of the vocabulary needs no merges."""
    composed: bool = False
    """Whether text is brought into Unicode's form NFC first."""
    begins: bool = False
    """Whether BOS is put first where the file does not say."""


_LLAMA3 = Splitting(_WORDS.replace("{digits}", "{1,3}"), whole_words=True, begins=True)
_QWEN2 = Splitting(_WORDS.replace("{digits}", ""), composed=True)
_CL100K = Splitting(_WORDS.replace("{digits}", "{1,3}"))
SPLITTINGS = {
    "gpt-2": Splitting(),
    "default": Splitting(),
    "olmo": Splitting(),
    "phi-2": Splitting(),
    "smollm": Splitting(single_digits=True),
    "starcoder": Splitting(single_digits=True),
    "refact": Splitting(single_digits=True),
    "command-r": Splitting(single_digits=True),
    "codeshell": Splitting(single_digits=True),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "dbrx": _CL100K,
    "smaug-bpe": _CL100K,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "stablelm2": Splitting(_WORDS.replace("{digits}", "")),
    "tekken": Splitting(_CASED, whole_words=True, begins=True),
}
"""tokenizer.ggml.pre -> what it means."""

UNSAID = {"qwen2": "qwen2", "qwen3": "qwen2", "smollm3": "llama-bpe", "olmo2": "dbrx"}
"""The pre-tokenizer of an architecture whose file, an old one, does not name it; else GPT-2's."""


def tokenizer_files(file: GgufFile) -> dict[str, bytes]:
    """tokenizer.json, tokenizer_config.json and, where the file has what belongs into them,
    chat_template.jinja and generation_config.json (with all tokens that end a text).

    Raises:
      UserError: the file carries no tokenizer, one of a kind that is not supported here, or one
        that contradicts itself.
    """
    vocabulary = Vocabulary(file)
    kinds: dict[Any, Callable[[Vocabulary], tuple[tokenizers.Tokenizer, bool]]] = {
        "gpt2": _byte_level,
        "llama": _sentencepiece,
        "t5": _unigram,
    }
    if vocabulary.kind is None or vocabulary.kind not in kinds:
        vocabulary.fail(f"has a tokenizer of kind {vocabulary.kind!r}, not gpt2, llama or t5")
    tokenizer, begins = kinds[vocabulary.kind](vocabulary)
    tokenizer.add_tokens(vocabulary.added())
    first = vocabulary.flag("add_bos_token", begins)
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
    name = vocabulary.word("pre") or UNSAID.get(architecture, "gpt-2")
    if name not in SPLITTINGS:
        vocabulary.fail(f"has a pre-tokenizer {name!r}; known are {', '.join(SPLITTINGS)}")
    splitting = SPLITTINGS[name]
    bpe = models.BPE(
        vocab=vocabulary.ids,
        merges=vocabulary.merges(),
        ignore_merges=splitting.whole_words,
    )
    tokenizer = tokenizers.Tokenizer(bpe)
    if splitting.composed:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = splitting_steps(splitting, vocabulary.flag("add_space_prefix", False))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, splitting.begins


def splitting_steps(splitting: Splitting, prefix: bool) -> pre_tokenizers.PreTokenizer:
    """How text is cut, as tokenizer.json says it; `prefix`: a space is put before it."""
    steps: list[Any] = []
    if splitting.single_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if splitting.pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(splitting.pattern), behavior="isolated"))
    words = splitting.pattern is None
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=words))
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
        vocabulary.fail("has a tokenizer that changes characters, which is not supported")
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
    """With spaces written as U+2581, as SentencePiece does."""
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
    """BOS before and EOS after every text, where the file wants them."""
    bos, eos = vocabulary.special("bos"), vocabulary.special("eos")
    before = [bos] if first and bos is not None else []
    after = [eos] if last and eos is not None else []
    if before or after:
        around = {token: vocabulary.ids[token] for token in (*before, *after)}
        one = [*before, "$A", *after]
        two = [*one, *(f"{part}:1" for part in [*before, "$B", *after])]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=one, pair=two, special_tokens=list(around.items())
        )
