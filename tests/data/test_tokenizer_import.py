"""Imported tokenizers of all formats give the ids of Transformers and SentencePiece."""

import json

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Inner
from tokenizers import processors as post

from data.published import LINES, LLAMA, llama, sentencepiece_model, t5, write, xlm_roberta
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.data.tokenizers.huggingface.importing import import_tokenizer
from llmjax.errors import UserError
from llmjax.storage.checksums import CHECKSUM

HARD = [
    *("", "a", " a", "a ", "  a   b  ", "\t\tx", "a\u2581b \u2581 c", "a\r\nb", "\u2028\x85\ufeff"),
    *("hello [MASK] <s> x </s> y", "<unk><pad>[UNK]", "<0x41>", "<extra_id_0> and <extra_id_7>"),
    *(
        "😀👩‍👩‍👧 emoji",
        "你好,世界!",
        "naïve café e\u0301 ﬁ Ⅷ",
        "x" * 300,
        "the the  the   the    the ",
    ),
    *LINES[:4],
]


def bert(folder, **settings):
    inner = Inner(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=settings.get("do_lower_case", True))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    inner.train_from_iterator(
        LINES, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special)
    )
    folder.mkdir()
    vocab = inner.get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)) + "\n")
    return write(folder, config={"model_type": "bert"}, tokenizer_config=settings)


def bert_cased(folder):
    return bert(folder, do_lower_case=False)


def byte_level(folder, kind, special):
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        LINES,
        trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet),
    )
    folder.mkdir()
    inner.model.save(str(folder))
    return write(folder, config={"model_type": kind}, tokenizer_config={})


def gpt2(folder):
    return byte_level(folder, "gpt2", ["<|endoftext|>"])


def roberta(folder):
    return byte_level(folder, "roberta", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])


FAMILIES = [t5, llama, xlm_roberta, bert, bert_cased, gpt2, roberta]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.__name__)
def family(request, tmp_path_factory):
    folder = request.param(tmp_path_factory.mktemp("published") / request.param.__name__)
    return request.param.__name__, folder, import_tokenizer(folder)


def test_older_files_give_the_ids_of_transformers(family):
    transformers = pytest.importorskip("transformers")
    _, folder, tokenizer = family
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    for text in HARD:
        assert tokenizer.wrap(tokenizer.encode_marked(text))[0] == reference.encode(text), text
    pair = tokenizer.wrap(tokenizer.encode("the"), tokenizer.encode("cat"))[0]
    assert pair == reference.encode("the", "cat")


def test_special_tokens_around_a_text(family):
    name, _, tokenizer = family
    expected = {
        "t5": ((), (1,)),
        "llama": ((1,), ()),
        "xlm_roberta": ((0,), (2,)),
        "bert": ((2,), (3,)),
        "bert_cased": ((2,), (3,)),
        "gpt2": ((), ()),
        "roberta": ((0,), (2,)),
    }
    assert (tokenizer.prefix, tokenizer.suffix) == expected[name]
    masks = {"xlm_roberta": tokenizer.vocab_size - 1, "bert": 4, "bert_cased": 4, "roberta": 4}
    assert tokenizer.mask_id == masks.get(name)
    if name == "t5":
        assert (tokenizer.bos_id, tokenizer.pad_id, tokenizer.eos_id) == (0, 0, 1)
    if name == "llama":
        assert tokenizer.stop_ids == (2, 5)
    if name.startswith("bert"):
        assert tokenizer.wrap([7], [8, 9]) == ([2, 7, 3, 8, 9, 3], [0, 0, 0, 1, 1, 1])


def test_special_tokens_in_a_text_are_text(family):
    _, _, tokenizer = family
    for text in HARD:
        special = set(tokenizer.special_tokens.values()) - {tokenizer.special_tokens.get("<unk>")}
        assert not set(tokenizer.encode(text)) & (
            special - {tokenizer.special_tokens.get("[UNK]")}
        ), text


def test_saved_and_loaded_they_are_the_same(family, tmp_path):
    _, _, tokenizer = family
    tokenizer.save(tmp_path / "tokenizer")
    again = load_tokenizer(tmp_path / "tokenizer")
    assert again.fingerprint == tokenizer.fingerprint
    assert again.encode_batch(HARD) == tokenizer.encode_batch(HARD)
    for name in ("prefix", "suffix", "stop_ids", "mask_id", "bos_id", "eos_id", "pad_id"):
        assert getattr(again, name) == getattr(tokenizer, name)


@pytest.mark.parametrize("user", [[], ["<mask>", "\n", "\n\n", "\u2581\u2581", "<h1>"]])
def test_sentencepiece_models_encode_as_they_do_by_themselves(tmp_path, user):
    """As Gemma: no leading space, user-defined symbols that are never split."""
    processor = sentencepiece_model(
        tmp_path / "tokenizer.model", **LLAMA, add_dummy_prefix=False, user_defined_symbols=user
    )
    tokenizer = import_tokenizer(write(tmp_path, config={"model_type": "gemma"}))
    for text in [*HARD, "a\n\n\nb <mask> <h1>x", "a    b"]:
        assert tokenizer.encode(text) == processor.encode(text), text
    assert tokenizer.decode(tokenizer.encode("a  b\n\nc")) == "a  b\n\nc"


# tokenizer.json -----------------------------------------------------------------------------------


def modern(folder, template=True):
    """A byte-level tokenizer.json with added tokens of all kinds, and a gap in its ids."""
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    spec = json.loads(inner.to_str())
    last = max(spec["model"]["vocab"], key=spec["model"]["vocab"].get)
    spec["model"]["vocab"][last] += 5
    inner = Inner.from_str(json.dumps(spec))
    inner.add_tokens([AddedToken("<think>", lstrip=True, rstrip=True), AddedToken("Größe")])
    inner.add_special_tokens(["<|begin|>", "<|end|>", "<|turn|>"])
    ids = {token: inner.token_to_id(token) for token in ("<|begin|>", "<|end|>", "<|turn|>")}
    inner.post_processor = post.Sequence(
        [
            post.ByteLevel(trim_offsets=False),
            post.TemplateProcessing(
                single="<|begin|> $A",
                pair="<|begin|> $A <|begin|>:1 $B:1",
                special_tokens=[("<|begin|>", ids["<|begin|>"])],
            ),
        ]
    )
    folder.mkdir(exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": {"content": "<|begin|>"}, "eos_token": "<|end|>", "pad_token": None}
    write(
        folder,
        tokenizer_config=settings | ({"chat_template": "{{ messages }}"} if template else {}),
        generation_config={"eos_token_id": [ids["<|end|>"], ids["<|turn|>"]]},
    )
    return ids


def test_a_tokenizer_json_is_kept_byte_for_byte(tmp_path):
    ids = modern(tmp_path)
    tokenizer = import_tokenizer(tmp_path)
    assert tokenizer.content == (tmp_path / "tokenizer.json").read_bytes()
    assert tokenizer.prefix == (ids["<|begin|>"],)
    assert tokenizer.stop_ids == (ids["<|end|>"], ids["<|turn|>"])
    text = "x  <think>  y Größe <|turn|> z"
    inner = Inner.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode_marked(text) == inner.encode(text, add_special_tokens=False).ids
    assert ids["<|turn|>"] in tokenizer.encode_marked(text)
    assert ids["<|turn|>"] not in tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode("a Größe <|turn|>")) == "a Größe <|turn|>"
    assert (
        len(tokenizer.token_bytes()) == tokenizer.vocab_size == max(inner.get_vocab().values()) + 1
    )


def test_the_chat_template_is_found_wherever_it_is(tmp_path):
    modern(tmp_path)
    assert import_tokenizer(tmp_path).chat_template == "{{ messages }}"
    named = [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]
    write(tmp_path, tokenizer_config={"eos_token": "<|end|>", "chat_template": named})
    assert import_tokenizer(tmp_path).chat_template == "d"
    write(tmp_path, chat_template={"chat_template": "from json"})
    assert import_tokenizer(tmp_path).chat_template == "from json"
    (tmp_path / "chat_template.jinja").write_text("from jinja 🙂")
    tokenizer = import_tokenizer(tmp_path)
    assert tokenizer.chat_template == "from jinja 🙂"
    tokenizer.save(tmp_path / "run")
    assert load_tokenizer(tmp_path / "run").chat_template == "from jinja 🙂"
    (tmp_path / "run" / "chat_template.jinja").write_text("edited")
    with pytest.raises(UserError, match=r"files were changed: chat_template\.jinja; .*remove"):
        load_tokenizer(tmp_path / "run")
    description = tmp_path / "run" / "llmjax_tokenizer.json"
    stored = json.loads(description.read_text())
    del stored[CHECKSUM]  # which allows it
    description.write_text(json.dumps(stored))
    assert load_tokenizer(tmp_path / "run").chat_template == "edited"


def test_tokens_that_only_the_neighbours_know_are_added(tmp_path):
    modern(tmp_path)
    size = import_tokenizer(tmp_path).vocab_size
    entry = {"content": "<|new|>", "special": True, "lstrip": True}
    write(tmp_path, tokenizer_config={"added_tokens_decoder": {str(size): entry}})
    tokenizer = import_tokenizer(tmp_path)
    assert tokenizer.encode_marked("a <|new|>")[-1] == size
    assert tokenizer.special_tokens["<|new|>"] == size
    write(tmp_path, tokenizer_config={"added_tokens_decoder": {str(size + 3): entry}})
    with pytest.raises(UserError, match=f"the id {size + 3}, the vocabulary has room for it at"):
        import_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{", "not a tokenizer.json"),
        ("tokenizer.json", b"\xff\xfe", "not a tokenizer.json"),
        ("tokenizer.json", b'{"model": {}, "added_tokens": []}', "not a tokenizer.json"),
        ("tokenizer.json", b'{"model": {"type": "Unigram", "vocab": []}}', "not a tokenizer.json"),
        ("tokenizer.model", b"garbage", "SentencePiece"),
        ("spiece.model", b"", "SentencePiece"),
        ("vocab.txt", b"a\nb\n", r"has no \[UNK\]"),
        ("vocab.txt", b"\xff\n", "cannot be read"),
        ("tokenizer_config.json", b"[]", "not a JSON object"),
        ("tokenizer_config.json", b"{", "is not JSON"),
    ],
)
def test_broken_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        import_tokenizer(tmp_path)


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"one of these files is needed: tokenizer\.json, vocab"):
        import_tokenizer(tmp_path)
    byte_level(tmp_path / "bloom", "bloom", ["</s>"])
    with pytest.raises(UserError, match=r"does not define how bloom splits words"):
        import_tokenizer(tmp_path / "bloom")
