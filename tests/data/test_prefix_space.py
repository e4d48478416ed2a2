"""The space that SentencePiece models add before a text, and the settings that control it."""

import json

import pytest

from data.published import LLAMA, llama, sentencepiece_model, write, xlm_roberta
from llmjax.data.tokenizers.huggingface.importing import import_tokenizer

TEXTS = ["the cat", " the", "  a", "a", "<s>the </s> cat", "", "Größe über", "a\n b"]
KINDS = ("llama", "mistral")


def model(path, kind, **settings):
    """Llama's folder without a tokenizer.json, for a given model type."""
    llama(path)
    config = path / "tokenizer_config.json"
    defaults = {"legacy": None, "add_bos_token": False} | settings
    value = json.loads(config.read_text()) | defaults
    config.write_text(json.dumps({key: entry for key, entry in value.items() if entry is not None}))
    return write(path, config={"model_type": kind})


@pytest.mark.parametrize("legacy", [None, False, True])
@pytest.mark.parametrize("space", [None, False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_settings_count_as_in_transformers(tmp_path, kind, space, legacy):
    transformers = pytest.importorskip("transformers")
    path = model(tmp_path / kind, kind, add_prefix_space=space, legacy=legacy)
    reference = transformers.AutoTokenizer.from_pretrained(path)
    tokenizer = import_tokenizer(path)
    for text in TEXTS:
        assert tokenizer.encode_marked(text) == reference.encode(text), text
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_a_text_without_a_space_before_it(tmp_path):
    """As in Transformers 5.24: only Llama's class reads add_prefix_space."""
    with_space = import_tokenizer(model(tmp_path / "on", "llama"))
    without = import_tokenizer(model(tmp_path / "off", "llama", add_prefix_space=False))
    ignored = import_tokenizer(model(tmp_path / "mistral", "mistral", add_prefix_space=False))
    for text in ("the cat", "a"):
        assert without.encode(text) != with_space.encode(text) == ignored.encode(text)
        assert without.encode(f" {text}") == with_space.encode(text)
        for tokenizer in (with_space, without, ignored):
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_model_that_adds_none_itself(tmp_path):
    path = model(tmp_path / "llama", "llama")
    sentencepiece_model(path / "tokenizer.model", **LLAMA, add_dummy_prefix=False)
    added = import_tokenizer(path)
    assert added.encode("the") == added.encode(" the")
    assert added.decode(added.encode("the")) == "the"


def test_xlm_robertas_pieces_without_a_space(tmp_path):
    transformers = pytest.importorskip("transformers")
    path = xlm_roberta(tmp_path / "xlm")
    write(path, tokenizer_config={"add_prefix_space": False})
    reference = transformers.AutoTokenizer.from_pretrained(path)
    tokenizer = import_tokenizer(path)
    for text in ("the cat", " the", "a", ""):
        assert tokenizer.wrap(tokenizer.encode_marked(text))[0] == reference.encode(text)
