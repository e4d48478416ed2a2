"""Write a run's tokenizer as GGUF metadata."""

import json
from collections.abc import Mapping
from typing import Any

import tokenizers

from llmjax.convert.gguf.file import GgufFile
from llmjax.convert.gguf.tokenizer import (
    BYTE,
    CONTROL,
    PRE_TOKENIZERS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    pre_tokenizer_steps,
    tokenizer_files,
)
from llmjax.convert.hf.tokenizer import tokenizer_json
from llmjax.data.tokenizers.huggingface.file import steps_of
from llmjax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError

NORMAL = 1
PROBES = (
    "The quick brown fox didn't jump 1234567 times.\n\n\tdef f(x):\r\n    return x**2  # ok\n",
    "Größe, élève, 你好世界, привет, 😀👍🏽, naïve  double  spaces   and trailing ",
    " leading space; 'S 'll we'RE; a_b-c/d\\e; 3.14e-10; <|not|>",
)
"""Texts that the file's tokenizer must encode like the run's."""


def vocabulary_keys(tokenizer: Tokenizer, rows: int) -> dict[str, Any]:
    """The keys tokenizer.ggml.* and the chat template.

    Args:
      tokenizer: the run's tokenizer.
      rows: of the embedding; ids beyond the tokenizer's are padding.

    Raises:
      UserError: llama.cpp does not support the tokenizer.
    """
    if isinstance(tokenizer, SentencePieceTokenizer):
        values = _from_sentencepiece(tokenizer)
    else:
        values = _from_json(json.loads(tokenizer_json(tokenizer)))
    size = len(values["tokens"])
    values["tokens"] += [f"[PAD{i}]" for i in range(size, rows)]
    values["token_type"] += [UNUSED] * (rows - size)
    if "scores" in values:
        values["scores"] += [-1e4] * (rows - size)
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "padding": tokenizer.pad_id}
    stop_ids = [token for token in tokenizer.stop_ids if token != tokenizer.eos_id]
    ids |= dict(zip(("eot", "eom"), stop_ids, strict=False))
    values |= {f"{name}_token_id": token for name, token in ids.items()}
    values["add_bos_token"] = tokenizer.prefix == (tokenizer.bos_id,)
    values["add_eos_token"] = tokenizer.suffix == (tokenizer.eos_id,)
    keys = {f"tokenizer.ggml.{name}": value for name, value in values.items()}
    if tokenizer.chat_template is not None:
        keys["tokenizer.chat_template"] = tokenizer.chat_template
    return keys


def check_vocabulary(file: GgufFile, tokenizer: Tokenizer) -> None:
    """Check on PROBES that the file's tokenizer encodes like the run's.

    Raises:
      UserError: the encodings differ.
    """
    content = tokenizer_files(file)["tokenizer.json"].decode()
    written = tokenizers.Tokenizer.from_str(content)
    written.encode_special_tokens = True
    for text in PROBES:
        if written.encode(text, add_special_tokens=False).ids != tokenizer.encode(text):
            raise _not_exportable("GGUF cannot express how it splits text")


def _not_exportable(why: str) -> UserError:
    return UserError("tokenizer", f"cannot be written: {why}", "export the run --to hf")


def _from_sentencepiece(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    from llmjax.data.tokenizers.huggingface import from_sentencepiece as spm

    proto = spm.parse(tokenizer.model, "SentencePiece model")
    kind = "t5" if proto.trainer_spec.model_type == spm.UNIGRAM else "llama"
    if proto.normalizer_spec.precompiled_charsmap:
        raise _not_exportable("it replaces characters before it splits text")
    return {
        "model": kind,
        "pre": "default",
        "tokens": [piece.piece for piece in proto.pieces],
        "scores": [float(piece.score) for piece in proto.pieces],
        "token_type": [int(piece.type) for piece in proto.pieces],
        "unknown_token_id": int(proto.trainer_spec.unk_id),
        "add_space_prefix": bool(proto.normalizer_spec.add_dummy_prefix),
        "remove_extra_whitespaces": bool(proto.normalizer_spec.remove_extra_whitespaces),
    }


def _from_json(spec: dict[str, Any]) -> dict[str, Any]:
    model = spec["model"]
    if model["type"] != "BPE":
        raise _not_exportable(f"llama.cpp has no {model['type']} tokenizer for decoders")
    merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    if not merges:
        raise _not_exportable("it has no merges, which llama.cpp needs")
    added = {token["id"]: token for token in spec["added_tokens"]}
    names = {i: name for name, i in model["vocab"].items()}
    names |= {i: token["content"] for i, token in added.items()}
    size = max(names) + 1
    tokens = [names.get(i, f"[PAD{i}]") for i in range(size)]
    types = [NORMAL if i in names else UNUSED for i in range(size)]
    for i, token in added.items():
        types[i] = CONTROL if token["special"] else USER_DEFINED
    if _is_byte_level(spec):
        return {
            "model": "gpt2",
            "pre": _pre_tokenizer_of(spec),
            "tokens": tokens,
            "token_type": types,
            "merges": [" ".join(pair) for pair in merges],
            "add_space_prefix": _prefixed(spec),
        }
    return _scored(spec, tokens, types, merges)


def _scored(
    spec: dict[str, Any], tokens: list[str], types: list[int], merges: list[tuple[str, ...]]
) -> dict[str, Any]:
    """A SentencePiece vocabulary, with scores from the order of merges."""
    kinds = [step["type"] for step in steps_of(spec.get("normalizer"))]
    if not spec["model"].get("byte_fallback") or spec.get("pre_tokenizer") is not None:
        raise _not_exportable("it is neither byte-level nor like SentencePiece")
    if not set(kinds) <= {"Prepend", "Replace"}:
        raise _not_exportable(f"it normalises text ({', '.join(kinds)})")
    scores = dict.fromkeys(tokens, 0.0)
    for rank, pair in reversed(list(enumerate(merges))):
        scores["".join(pair)] = -float(rank + 1)
    for i, token in enumerate(tokens):
        if len(token) == 6 and token.startswith("<0x") and types[i] == NORMAL:
            types[i] = BYTE
    values: dict[str, Any] = {
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "scores": [scores[token] for token in tokens],
        "token_type": types,
        "add_space_prefix": "Prepend" in kinds,
    }
    unknown = spec["model"].get("unk_token")
    if unknown is not None:
        types[tokens.index(unknown)] = UNKNOWN
        values["unknown_token_id"] = tokens.index(unknown)
    return values


def _is_byte_level(spec: dict[str, Any]) -> bool:
    steps = steps_of(spec.get("pre_tokenizer"))
    return any(step["type"] == "ByteLevel" for step in steps)


def _prefixed(spec: dict[str, Any]) -> bool:
    steps = steps_of(spec.get("pre_tokenizer"))
    return any(step.get("add_prefix_space") for step in steps)


def _pre_tokenizer_of(spec: dict[str, Any]) -> str:
    """llama.cpp's name for the pre-tokenizer of a tokenizer.json."""
    model = spec["model"]
    signature = (
        [_plain(step) for step in steps_of(spec.get("pre_tokenizer"))],
        [step["type"] for step in steps_of(spec.get("normalizer"))],
        bool(model.get("ignore_merges")),
    )
    for name, candidate in PRE_TOKENIZERS.items():
        state = json.loads(pre_tokenizer_steps(candidate, _prefixed(spec)).__getstate__())
        steps = [_plain(step) for step in steps_of(state)]
        if signature == (steps, ["NFC"] * candidate.nfc, candidate.whole_words):
            return name
    raise _not_exportable("llama.cpp has no name for how it splits text into words")


def _plain(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step without fields that do not affect ids."""
    return {name: value for name, value in step.items() if name != "trim_offsets"}
