"""Exported tokenizers yield the same ids in Transformers and when reimported."""

import io
import json
from pathlib import Path

import pytest
import sentencepiece

from llmjax.convert.hf.tokenizer import export_tokenizer
from llmjax.data.tokenizers.config import SentencePieceConfig
from llmjax.data.tokenizers.huggingface.importing import import_tokenizer
from llmjax.data.tokenizers.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.errors import UserError

LINES = [
    "def f(x):\n    return x + 1\n\n\n\tThe cat  sat on the mat, 1234 times.\r\n",
    "Ein Hund läuft über die Straße. 你好,世界! naïve café Привет",
    "the quick brown fox jumps over the lazy dog and the cat and the hat    and    more",
] * 30
HARD = [
    *(
        "",
        " ",
        "  ",
        "\n",
        "a",
        " a",
        "a ",
        "  a   b  ",
        "\t\tx",
        "\u2581",
        "a\u2581b \u2581\u2581",
    ),
    *("\0", "a\0b", "<s>", "hello <s> x </s>", "<0x41>", "<unk><pad>", "<eos> <mask>", "s>"),
    *(
        "😀👩‍👩‍👧",
        "你好,世界!",
        "naïve café e\u0301",
        "\u2028\x85\ufeff\ufffd",
        "x" * 3000,
        " " * 777,
    ),
    *("\n" * 50, "a\r\nb", "  \n  \n", "the the  the   the    the     ", " " * 777, "the" * 500),
    *LINES[:3],
    "".join(LINES),
]
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def trained(kind, **options):
    config = SentencePieceConfig(325, kind, character_coverage=0.99, **options)
    return SentencePieceTokenizer(train_sentencepiece(config, LINES), chat_template=TEMPLATE)


def from_elsewhere():
    """A model with SentencePiece's defaults: prefix space and normalised text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, vocab_size=70, minloglevel=2
    )
    return SentencePieceTokenizer(model.getvalue())


KINDS = {
    "bytes": BytesTokenizer,
    "bpe": lambda: trained("bpe"),
    "unigram": lambda: trained("unigram"),
}


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    tokenizer = KINDS[request.param]()
    folder = tmp_path_factory.mktemp(request.param)
    export_tokenizer(tokenizer, folder, max_length=1000, model_type="llama")
    return tokenizer, folder


def loaded(folder: Path, kind: str):
    transformers = pytest.importorskip("transformers")
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_transformers_gives_the_same_ids(exported, kind):
    tokenizer, folder = exported
    reference = loaded(folder, kind)
    plain = reference(HARD, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert plain == tokenizer.encode_batch(HARD)
    for text in HARD:
        assert reference.encode(text, add_special_tokens=False) == tokenizer.encode_marked(text)
        assert reference.decode(tokenizer.encode(text)) == text
    assert (
        reference.encode("a")
        == tokenizer.wrap(tokenizer.encode("a"))[0]
        == [tokenizer.bos_id, *tokenizer.encode("a")]
    )
    assert (
        reference.encode("a", "b")
        == tokenizer.wrap(tokenizer.encode("a"), tokenizer.encode("b"))[0]
    )
    ids = (
        reference.bos_token_id,
        reference.eos_token_id,
        reference.pad_token_id,
        reference.mask_token_id,
    )
    assert ids == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.mask_id)
    assert reference.model_max_length == 1000
    assert len(reference) == tokenizer.vocab_size
    assert reference.chat_template == tokenizer.chat_template


def test_imported_again_it_is_the_same(exported):
    tokenizer, folder = exported
    again = import_tokenizer(folder)
    assert again.encode_batch(HARD) == tokenizer.encode_batch(HARD)
    for text in HARD:
        assert again.encode_marked(text) == tokenizer.encode_marked(text)
        assert again.decode(again.encode(text)) == text
    names = ("bos_id", "eos_id", "pad_id", "mask_id", "prefix", "suffix", "chat_template")
    assert [getattr(again, n) for n in names] == [getattr(tokenizer, n) for n in names]
    assert again.special_tokens == tokenizer.special_tokens
    assert (again.token_bytes() == tokenizer.token_bytes()).all()


def test_an_imported_one_leaves_as_it_came(exported, tmp_path):
    _, folder = exported
    again = import_tokenizer(folder)
    export_tokenizer(again, tmp_path, max_length=7, chat_template="other", model_type="bert")
    name = "tokenizer.json"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert (tmp_path / "chat_template.jinja").read_text() == "other"
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["cls_token"] == settings["bos_token"]
    assert "token_type_ids" in settings["model_input_names"]


def test_a_model_from_elsewhere_keeps_its_ways(tmp_path):
    tokenizer = from_elsewhere()
    export_tokenizer(tokenizer, tmp_path, max_length=100)
    again = import_tokenizer(tmp_path)
    for text in ["the cat sat", " the cat", "the  cat ", "judge", "", *LINES[:3]]:
        assert again.encode(text) == tokenizer.encode(text), text
        assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))


def test_what_has_no_such_form_is_refused(tmp_path):
    class Other:
        chat_template = None

    with pytest.raises(UserError, match="Other: has no equivalent"):
        export_tokenizer(Other(), tmp_path, max_length=1)
    assert not list(tmp_path.iterdir())
