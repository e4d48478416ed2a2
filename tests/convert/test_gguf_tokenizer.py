"""Tokenizers of GGUF files yield the ids of the original tokenizer."""

import itertools
import json
import math

import gguf
import pytest
import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from llmjax.convert.gguf.file import open_file
from llmjax.convert.gguf.tokenizer import PRE_TOKENIZERS, tokenizer_files
from llmjax.data.tokenizers.huggingface.importing import import_tokenizer
from llmjax.errors import UserError

LINES = [
    "The quick brown fox didn't jump over 1234567 lazy dogs, we'll SEE.",
    "  two spaces,\ttabs\n\n\nand  newlines\r\n x\n",
    "Größe élève naïve résumé e\u0301 Ω \u2126 你好。世界 привет 日本語テキスト 한국어",
    "emoji 😀👍🏽👩‍👩‍👧 and symbols ©®™ … — “quotes” x²=½",
    "def f(x: int) -> str:\n    return f'{x:>10}' + \"\\n\"  # 'S 'LL it'S\n",
    "CamelCaseWords and snake_case_words/2024-01-02T03:04:05.678Z http://a.b/c?d=e&f=g",
    "",
    " ",
    "a",
]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WAYS = {
    "gpt-2": (pre_tokenizers.ByteLevel(add_prefix_space=False), None),
    "smollm": (
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        ),
        None,
    ),
    "llama-bpe": (
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), BYTES]),
        None,
    ),
    "qwen2": (
        pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(LLAMA3.replace("{1,3}", "")), "isolated"), BYTES]
        ),
        normalizers.NFC(),
    ),
}
"""How published tokenizers split text, from their tokenizer.json."""


def byte_level(way):
    """A byte-level BPE trained on the lines, with special tokens."""
    inner = Tokenizer(models.BPE(ignore_merges=way == "llama-bpe"))
    inner.pre_tokenizer, normalizer = WAYS[way]
    if normalizer is not None:
        inner.normalizer = normalizer
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|end|>", "<|im|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    inner.train_from_iterator(LINES * 3, trainer)
    return inner


def write(path, keys, tokens, **lists):
    """Write a GGUF file with only a tokenizer."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {"tokens": tokens, **keys, **lists}.items():
        key = f"tokenizer.ggml.{name}"
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return open_file(path)


def write_byte_level(path, inner, way, **keys):
    spec = json.loads(inner.to_str())
    tokens = sorted(inner.get_vocab(), key=inner.get_vocab().__getitem__)
    types = [3 if token.startswith("<|") else 1 for token in tokens]
    merges = [" ".join(pair) for pair in spec["model"]["merges"]]
    keys = {"model": "gpt2", "pre": way, "bos_token_id": 1, "eos_token_id": 0, **keys}
    return write(path, keys, tokens, merges=merges, token_type=types)


def imported(file, folder):
    folder.mkdir()
    for name, content in tokenizer_files(file).items():
        (folder / name).write_bytes(content)
    return import_tokenizer(folder)


@pytest.mark.parametrize("way", WAYS)
def test_byte_level_ids_are_the_originals(tmp_path, way):
    original = byte_level(way)
    file = write_byte_level(tmp_path / "t.gguf", original, way)
    tokenizer = imported(file, tmp_path / "folder")
    for line in LINES:
        assert tokenizer.encode(line) == original.encode(line).ids, line
        marked = f"<|im|>{line}<|end|>"
        assert tokenizer.encode_marked(marked) == original.encode(marked).ids
        if way != "qwen2":
            assert tokenizer.decode(tokenizer.encode(line)) == line
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 0)
    assert tokenizer.prefix == ((1,) if way == "llama-bpe" else ())


def test_bos_and_eos_as_the_file_says(tmp_path):
    original = byte_level("gpt-2")
    file = write_byte_level(
        tmp_path / "t.gguf", original, "gpt-2", add_bos_token=True, add_eos_token=True
    )
    tokenizer = imported(file, tmp_path / "folder")
    assert (tokenizer.prefix, tokenizer.suffix) == ((1,), (0,))


def test_all_ends_of_text_are_kept(tmp_path):
    original = byte_level("gpt-2")
    file = write_byte_level(tmp_path / "t.gguf", original, "gpt-2", eot_token_id=1)
    assert imported(file, tmp_path / "folder").stop_ids == (0, 1)


def llama_like():
    """Pieces, types and scores of a SentencePiece-like vocabulary: bytes, letters, merges."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "<|user|>"]
    types = [2, 3, 3] + [6] * 256 + [4]
    joined = [
        "\u2581",
        *"abcdehilnotuwxr.",
        "he",
        "in",
        "\u2581t",
        "\u2581the",
        "the",
        "\u2581a",
        "an",
        "and",
        "\u2581and",
        "on",
        "ll",
        "hello",
        "ello",
        "\u2581hello",
        "wor",
        "or",
    ]
    pieces += joined
    types += [1] * len(joined)
    scores = [0.0] * 260 + [-float(i) for i in range(len(joined))]
    return pieces, types, scores


def sentencepiece_ids(text, pieces, types, scores, prefix):
    """SentencePiece BPE as in its paper: repeatedly merge the best pair."""
    number = {p: i for i, p in enumerate(pieces) if types[i] == 1}
    parts = list((" " + text if prefix and text else text).replace(" ", "\u2581"))
    while True:
        pairs = [
            (-scores[number[a + b]], index)
            for index, (a, b) in enumerate(itertools.pairwise(parts))
            if a + b in number
        ]
        if not pairs:
            break
        best = min(pairs)[1]
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return [
        token
        for part in parts
        for token in ([number[part]] if part in number else [3 + byte for byte in part.encode()])
    ]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_ids_follow_the_scores(tmp_path, prefix):
    pieces, types, scores = llama_like()
    keys = {
        "model": "llama",
        "add_space_prefix": prefix,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    file = write(tmp_path / "t.gguf", keys, pieces, token_type=types, scores=scores)
    tokenizer = imported(file, tmp_path / "folder")
    for line in [
        "hello and the world",
        "the  on",
        "other né 😀 lines\nin",
        "",
        "hellohello",
        *LINES,
    ]:
        expected = sentencepiece_ids(line, pieces, types, scores, prefix)
        assert tokenizer.encode(line) == expected, line
        assert tokenizer.decode(expected) == line
    assert tokenizer.prefix == (1,)
    user = pieces.index("<|user|>")
    assert user in tokenizer.encode_marked("the<|user|>the")


def test_rows_without_a_token_are_left_out(tmp_path):
    original = byte_level("gpt-2")
    spec = json.loads(original.to_str())
    tokens = sorted(original.get_vocab(), key=original.get_vocab().__getitem__)
    keys = {"model": "gpt2", "pre": "gpt-2", "bos_token_id": 1, "eos_token_id": 0}
    more = [f"[PAD{i}]" for i in range(500, 512)]
    types = [1] * len(tokens) + [5] * len(more)
    merges = [" ".join(pair) for pair in spec["model"]["merges"]]
    file = write(tmp_path / "t.gguf", keys, tokens + more, merges=merges, token_type=types)
    assert imported(file, tmp_path / "folder").vocab_size == len(tokens)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": "bert"}, "bert"),
        ({"pre": "of-tomorrow"}, "of-tomorrow"),
        ({"tokens": ["a", "a"]}, "duplicate"),
        ({"token_type": [1]}, "token type"),
        ({"merges": ["a zzz"]}, "zzz"),
        ({"bos_token_id": 99999}, "99999"),
        ({"model": "llama"}, "score"),
        ({"model": "llama", "tokens": ["a"], "token_type": [1], "scores": [math.nan]}, "score"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, changes, why):
    original = byte_level("gpt-2")
    tokens = sorted(original.get_vocab(), key=original.get_vocab().__getitem__)
    keys = {"model": "gpt2", "pre": "gpt-2", "bos_token_id": 1, "eos_token_id": 0}
    merges = [" ".join(pair) for pair in json.loads(original.to_str())["model"]["merges"]]
    lists = {"tokens": tokens, "merges": merges, "token_type": [1] * len(tokens)}
    values = keys | lists | changes
    file = write(tmp_path / "t.gguf", {}, values.pop("tokens"), **values)
    with pytest.raises(UserError, match=why):
        tokenizer_files(file)


def test_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match="no tokenizer"):
        tokenizer_files(write(tmp_path / "t.gguf", {"model": "none"}, []))


def test_every_way_of_cutting_is_lossless(tmp_path):
    original = byte_level("gpt-2")
    for way, pre_tokenizer in PRE_TOKENIZERS.items():
        file = write_byte_level(tmp_path / f"{way}.gguf", original, way)
        text = tokenizer_files(file)["tokenizer.json"].decode()
        tokenizer = tokenizers.Tokenizer.from_str(text)
        for line in LINES:
            if not pre_tokenizer.nfc:
                ids = tokenizer.encode(line, add_special_tokens=False).ids
                assert tokenizer.decode(ids) == line, (way, line)
