"""Hostile tokenizers are refused in one line, before they take memory or time."""

import json
import resource
import subprocess
import sys

import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import models

from data.published import t5
from llmjax.data.tokenizers.config import HuggingFaceTokenizerConfig, SentencePieceConfig
from llmjax.data.tokenizers.huggingface import file as tokenizer_limits
from llmjax.data.tokenizers.huggingface import tokenizer as huggingface_tokenizer
from llmjax.data.tokenizers.huggingface.file import (
    MAX_ADDED,
    MAX_MERGES,
    MAX_TOKENS,
)
from llmjax.data.tokenizers.huggingface.importing import import_tokenizer
from llmjax.data.tokenizers.huggingface.tokenizer import HuggingFaceTokenizer
from llmjax.errors import UserError

CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from llmjax.data.tokenizers.huggingface.importing import import_tokenizer
from llmjax.errors import UserError
for folder in sys.argv[1:]:
    try:
        import_tokenizer(folder)
    except UserError as error:
        print(error)
# Not getrusage, which includes the parent process's memory before exec.
status = open("/proc/self/status").read()
print(status.split("VmHWM:")[1].split()[0])
"""
SMALL = {"<s>": 0, "</s>": 1, "a": 2, "b": 3}
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


def spec(vocab=SMALL, **parts):
    """A tokenizer.json, as a value."""
    inner = Inner(models.BPE(SMALL, []))
    inner.add_special_tokens(["<s>", "</s>"])
    value = json.loads(inner.to_str())
    return value | parts | {"model": value["model"] | {"vocab": vocab}}


def replaces(count, kind="String"):
    step = {"type": "Replace", "pattern": {kind: "a"}, "content": "aa"}
    return [step] * count


def sequence(name, steps):
    return {"type": "Sequence", name: steps}


def numbered(count):
    return {**SMALL, **{f"t{number}": number for number in range(4, count)}}


def bytes_again(count):
    step = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    return [step | {"use_regex": False}] * count


def added(count):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return [{"id": 4 + index, "content": f"<{index}>", **flags} for index in range(count)]


nested = sequence("normalizers", [sequence("normalizers", replaces(16)), *replaces(15, "Regex")])
BOMBS = {
    "growth": (lambda: spec(normalizer=sequence("normalizers", replaces(31))), "in encoding"),
    "nested": (lambda: spec(normalizer=nested), r"9.4e\+11 times as long in encoding"),
    "one_long": (
        lambda: spec(
            normalizer=sequence(
                "normalizers",
                [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100_000}] * 2,
            )
        ),
        r"1e\+10 times as long",
    ),
    "pre_tokenizer": (
        lambda: spec(pre_tokenizer=sequence("pretokenizers", bytes_again(31))),
        "in encoding",
    ),
    "decoder": (lambda: spec(decoder=sequence("decoders", replaces(31))), "in decoding"),
    "steps": (
        lambda: spec(normalizer=sequence("normalizers", [{"type": "StripAccents"}] * 300)),
        "has 300 normalizers and the like, and at most 256",
    ),
    "id": (lambda: spec(SMALL | {"c": 2**31}), "a token with the id 2147483648; ids are from 0 to"),
    "huge_id": (lambda: spec(SMALL | {"c": 10**30}), "a token with the id 1000000000"),
    "negative_id": (lambda: spec(SMALL | {"c": -1}), "a token with the id -1"),
    "odd_id": (lambda: spec(SMALL | {"c": 1.5}), "a token with the id float"),
}


def write(folder, value):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(value))
    return folder


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_one_line(tmp_path, name):
    make, message = BOMBS[name]
    write(tmp_path, make())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=message) as caught:
        import_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=message):
        HuggingFaceTokenizerConfig(str(tmp_path)).open()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 300 << 10, "KiB"


def test_bombs_are_refused_within_little_memory(tmp_path):
    for name in ("growth", "nested", "pre_tokenizer", "id"):
        write(tmp_path / name, BOMBS[name][0]())
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "tokenizer.json").write_text("[" * 300_000)
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "vocab.json").write_text(json.dumps(SMALL | {"c": 2**31}))
    (tmp_path / "older" / "merges.txt").write_text("#version: 0.2\n")
    folders = sorted(tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, folders)],
        capture_output=True,
        text=True,
        check=True,
    )
    *errors, peak = done.stdout.splitlines()
    names = [line.split(":")[0].split("/")[-2] for line in errors]
    assert names == [folder.name for folder in folders]
    assert "nested more than 100 deep" in errors[0]
    assert "a token with the id 2147483648" in errors[-2]
    assert int(peak) < 512 << 10, "KiB"


def test_counts_are_bounded(tmp_path, monkeypatch):
    assert (MAX_TOKENS, MAX_MERGES, MAX_ADDED) == (1 << 20, 1 << 21, 1 << 17)
    for name in ("MAX_TOKENS", "MAX_MERGES", "MAX_ADDED"):
        monkeypatch.setattr(tokenizer_limits, name, 100)
    many = spec()
    many["model"]["merges"] = [["a", "b"]] * 101
    for value, message in (
        (spec(numbered(101)), "has 101 tokens, and at most 100 are read"),
        (spec(added_tokens=added(101)), "has 101 added tokens, and at most 100 are read"),
        (many, "has 101 merges, and at most 100 are read"),
    ):
        with pytest.raises(UserError, match=message):
            import_tokenizer(write(tmp_path, value))


def test_the_largest_id_that_is_allowed(tmp_path):
    write(tmp_path, spec(SMALL | {"c": MAX_TOKENS - 1}))
    assert import_tokenizer(tmp_path).vocab_size == MAX_TOKENS


def test_published_normalizers_keep_to_the_limit(tmp_path):
    """ALBERT's, CLIP's and BERT's: the longest published sequences."""
    albert = [
        *(
            {"type": "Replace", "pattern": {"String": mark}, "content": '"'}
            for mark in ("``", "''")
        ),
        *({"type": kind} for kind in ("NFKD", "StripAccents", "Lowercase")),
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    ]
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    words = sequence("pretokenizers", [{"type": "WhitespaceSplit"}, metaspace])
    write(tmp_path, spec(normalizer=sequence("normalizers", albert), pre_tokenizer=words))
    assert import_tokenizer(tmp_path).encode("a") == [2]
    clip = [
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
        {"type": "Lowercase"},
    ]
    write(tmp_path, spec(normalizer=sequence("normalizers", clip)))
    assert import_tokenizer(tmp_path).encode("A") == [2]


def test_a_regular_expression_that_takes_too_long_is_refused(capfd):
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}
    content = json.dumps(spec(pre_tokenizer=split | {"invert": False})).encode()
    tokenizer = HuggingFaceTokenizer(content, NAMES, "tokenizer.json")
    assert tokenizer.encode("aab") == [2, 2, 3]
    text = "a" * 40 + "b"
    for encode in (tokenizer.encode, tokenizer.encode_offsets, tokenizer.encode_marked):
        with pytest.raises(
            UserError, match=r"cannot encode this text: 'Onig.*retry-limit"
        ) as caught:
            encode(text)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot encode this text"):
        tokenizer.encode_batch(["b", text])
    assert capfd.readouterr() == ("", ""), "no report of Rust's"


def test_a_decoder_that_takes_too_long_is_refused(monkeypatch):
    replace = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}
    vocab = {**SMALL, "a" * 40 + "b": 4}
    with pytest.raises(UserError, match="a decoder that fails on its own vocabulary: 'Onig"):
        HuggingFaceTokenizer(json.dumps(spec(vocab, decoder=replace)).encode(), NAMES)
    monkeypatch.setattr(huggingface_tokenizer, "DECODING_SECONDS", -1)
    with pytest.raises(UserError, match="a decoder that takes over -1 s for its vocabulary"):
        HuggingFaceTokenizer(json.dumps(spec()).encode(), NAMES)


def test_what_the_library_cannot_encode_is_refused():
    content = spec(pre_tokenizer=None)
    content["model"] = {"type": "WordLevel", "vocab": SMALL, "unk_token": "[UNK]"}
    tokenizer = HuggingFaceTokenizer(json.dumps(content).encode(), NAMES, "tokenizer.json")
    with pytest.raises(UserError, match="cannot encode this text: 'WordLevel error: Missing"):
        tokenizer.encode("nothing known")


@pytest.mark.parametrize("extra", [10**9, -1, "100", 1.5, None])
def test_extra_ids_of_t5_are_bounded(tmp_path, extra):
    folder = t5(tmp_path / "t5")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extra_ids": extra}))
    with pytest.raises(UserError, match="has extra_ids"):
        import_tokenizer(folder)


def test_a_sentencepiece_model_with_a_long_piece_is_refused(tmp_path):
    from sentencepiece import sentencepiece_model_pb2 as schema

    model = schema.ModelProto()
    model.trainer_spec.model_type = 2
    for piece in ("<unk>", "a" * 300):
        model.pieces.add(piece=piece)
    (tmp_path / "tokenizer.model").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="has 300 characters in one token, and at most 256"):
        import_tokenizer(tmp_path)


def test_files_too_large_are_not_read(tmp_path):
    for name in ("tokenizer.json", "spiece.model"):
        (tmp_path / name).touch()
        with open(tmp_path / name, "r+b") as file:
            file.truncate(1 << 40)
    with pytest.raises(UserError, match=r"is 1024 GiB, and at most 256 MiB are read"):
        import_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"is 1024 GiB, and at most 32 MiB are read"):
        SentencePieceConfig(path=str(tmp_path / "spiece.model")).open()


def test_dropout_is_disabled(tmp_path):
    value = spec({**SMALL, "ab": 4, "aab": 5})
    value["model"] |= {"merges": [["a", "b"], ["a", "ab"]], "dropout": 0.9}
    write(tmp_path, value)
    opened = [
        import_tokenizer(tmp_path),
        HuggingFaceTokenizerConfig(str(tmp_path)).open(),
    ]
    for tokenizer in opened:
        assert {tuple(tokenizer.encode("aab")) for _ in range(50)} == {(5,)}
        assert {tuple(tokenizer.encode_marked("aab")) for _ in range(50)} == {(5,)}
    # Saved and exported tokenizers are deterministic too.
    assert json.loads(opened[0].content)["model"]["dropout"] is None
