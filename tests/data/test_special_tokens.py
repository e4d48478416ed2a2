"""Special tokens from the other files of a tokenizer.json's folder, as in Transformers."""

import json

import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers

from llmjax.data.tokenizers.config import HuggingFaceTokenizerConfig, load_tokenizer
from llmjax.data.tokenizers.huggingface.importing import import_tokenizer
from llmjax.errors import UserError

TEXT = "a<x> b <y>  c<in>d <z> <mask> <img> e"
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
TYPE = {"__type": "AddedToken"}
Y = {"content": "<y>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}


def folder(path, config=None, special=None, added=None):
    """A byte-level tokenizer.json: bytes, <s>, </s> and <in> are 0 ... 258."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, "<s>", "</s>", "<in>"]
    inner = Inner(models.BPE({piece: index for index, piece in enumerate(pieces)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<s>", "</s>"])
    path.mkdir(exist_ok=True)
    inner.save(str(path / "tokenizer.json"))
    for name, value in (
        ("tokenizer_config", config),
        ("special_tokens_map", special),
        ("added_tokens", added),
    ):
        if value is not None:
            (path / f"{name}.json").write_text(json.dumps(value))
    return path


def listed(**more):
    return {"config": NAMES | more}


# Content of the files, and the ids of the tokens in Transformers 5.24.
CASES = {
    "additional": (
        listed(additional_special_tokens=["<x>", "<in>", "<y>"]),
        {"<in>": 258, "<x>": 259, "<y>": 260},
    ),
    "additional_objects": (
        listed(additional_special_tokens=[TYPE | {"content": "<y>", "lstrip": True}]),
        {"<y>": 259},
    ),
    "additional_special_objects": (
        listed(additional_special_tokens=[TYPE | Y | {"special": True}]),
        {"<y>": 259},
    ),
    "extra": (listed(extra_special_tokens=["<x>", "<y>"]), {"<x>": 259, "<y>": 260}),
    "extra_names": (
        listed(extra_special_tokens={"image_token": "<x>", "in_token": "<in>"}),
        {"<in>": 258, "<x>": 259},
    ),
    "extra_named_objects": (
        listed(extra_special_tokens={"k": TYPE | {"content": "<y>", "rstrip": True}}),
        {"<y>": 259},
    ),
    "both": (
        listed(extra_special_tokens=["<x>"], additional_special_tokens=["<y>"]),
        {"<x>": 259},
    ),
    "names_and_list": (
        listed(extra_special_tokens={"a": "<x>"}, additional_special_tokens=["<y>"]),
        {"<x>": 259, "<y>": 260},
    ),
    "map": (
        {"config": NAMES, "special": {"additional_special_tokens": ["<x>", "<y>"]}},
        {"<x>": 259, "<y>": 260},
    ),
    "map_extra": (
        {"config": NAMES, "special": {"extra_special_tokens": ["<x>", Y]}},
        {"<x>": 259, "<y>": 260},
    ),
    "map_names": (
        {"config": NAMES, "special": {"extra_special_tokens": {"k": "<x>"}}},
        {"<x>": 259},
    ),
    "map_beside_a_list": (
        listed(additional_special_tokens=["<x>"])
        | {"special": {"additional_special_tokens": ["<y>"]}},
        {"<x>": 259},
    ),
    "map_extends_a_list": (
        listed(additional_special_tokens=["<x>"]) | {"special": {"extra_special_tokens": ["<y>"]}},
        {"<x>": 259, "<y>": 260},
    ),
    "map_does_not_count": (
        listed(added_tokens_decoder={"259": {"content": "<z>", "special": True}})
        | {"special": {"additional_special_tokens": ["<x>"], "pad_token": "<y>"}},
        {"<z>": 259},
    ),
    "numbered_first": (
        listed(
            additional_special_tokens=["<x>", "<z>"],
            added_tokens_decoder={"259": {"content": "<z>", "special": True}},
        ),
        {"<z>": 259, "<x>": 260},
    ),
    "usual_names": (
        listed(
            pad_token="<z>",
            mask_token=TYPE | {"content": "<mask>", "lstrip": True},
            image_token="<img>",
            cls_token="<in>",
        ),
        {"<in>": 258, "<z>": 259, "<mask>": 260, "<img>": 261},
    ),
    "map_of_names": (
        {
            "config": {"pad_token": "<x>"},
            "special": NAMES | {"pad_token": Y, "unk_token": "<in>", "own_token": "<z>"},
        },
        {"<in>": 258, "<y>": 259, "<z>": 260},
    ),
    "added_json": (
        listed(additional_special_tokens=["<x>"]) | {"added": {"<x>": 260, "<z>": 259}},
        {"<z>": 259, "<x>": 260},
    ),
    "nothing": (listed(additional_special_tokens=None, extra_special_tokens={}), {}),
    "twice": (listed(additional_special_tokens=["<x>", "<x>", "</s>"]), {"<x>": 259}),
}


@pytest.mark.parametrize("name", CASES)
def test_named_tokens_are_tokens(tmp_path, name):
    files, expected = CASES[name]
    path = folder(tmp_path / "published", **files)
    tokenizer = import_tokenizer(path)
    added = Inner.from_str(tokenizer.content.decode()).get_added_tokens_decoder()
    assert {
        token.content: token_id for token_id, token in added.items() if token_id > 257
    } == expected
    ids = tokenizer.encode_marked(TEXT)
    assert {token_id for token_id in ids if token_id > 257} == set(expected.values())
    assert not set(tokenizer.encode(TEXT)) & set(tokenizer.special_tokens.values())
    assert tokenizer.decode(tokenizer.encode("a b")) == "a b"
    tokenizer.save(tmp_path / "run")
    assert load_tokenizer(tmp_path / "run").encode_marked(TEXT) == ids
    trained_from = HuggingFaceTokenizerConfig(str(path)).open()
    assert trained_from.encode_marked(TEXT) == ids


@pytest.mark.parametrize("name", CASES)
def test_they_are_those_of_transformers(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    files, _ = CASES[name]
    path = folder(tmp_path, **files)
    reference = transformers.AutoTokenizer.from_pretrained(path)
    tokenizer = import_tokenizer(path)
    added = Inner.from_str(tokenizer.content.decode()).get_added_tokens_decoder()
    expected = reference.added_tokens_decoder
    assert {token_id: repr(token) for token_id, token in added.items()} == {
        token_id: repr(token) for token_id, token in expected.items()
    }
    for text in (TEXT, "<x><x>", "  <y>  <in>", ""):
        assert tokenizer.encode_marked(text) == reference.encode(text, add_special_tokens=False)
        ids = tokenizer.encode_marked(text)
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_tokens_beyond_the_embedding_are_left_out(tmp_path):
    path = folder(tmp_path, **listed(additional_special_tokens=["<x>", "<in>", "<y>"]))
    tokenizer = import_tokenizer(path, rows=260)
    assert tokenizer.vocab_size == 260
    assert {token_id for token_id in tokenizer.encode_marked(TEXT) if token_id > 257} == {258, 259}
    assert import_tokenizer(path, rows=259).vocab_size == 259


@pytest.mark.parametrize("odd", ["<x>", [1], [{"lstrip": True}], [{"content": 5}], 3])
def test_odd_lists_are_refused(tmp_path, odd):
    path = folder(tmp_path, **listed(additional_special_tokens=odd))
    with pytest.raises(UserError, match="has malformed added tokens"):
        import_tokenizer(path)


def test_older_lists_of_objects_are_read(tmp_path):
    """Transformers 4 wrote them to special_tokens_map.json without a type."""
    path = folder(tmp_path, config=NAMES, special={"additional_special_tokens": [Y]})
    tokenizer = import_tokenizer(path)
    assert tokenizer.special_tokens["<y>"] == 259
    assert tokenizer.encode_marked("a  <y>") == [*tokenizer.encode("a"), 259]
