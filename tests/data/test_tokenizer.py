"""All tokenizers are lossless, encode no special tokens from text, and survive saving."""

import json
import random

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from llmjax.data.tokenizers import sentencepiece as sentencepiece_tokenizer
from llmjax.data.tokenizers.config import (
    BytesConfig,
    HuggingFaceTokenizerConfig,
    SentencePieceConfig,
    load_tokenizer,
)
from llmjax.data.tokenizers.folder import (
    DESCRIPTION,
    FILES,
    add_chat_template,
)
from llmjax.data.tokenizers.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.data.tokenizers.tokenizer import TextDecoder
from llmjax.errors import UserError
from llmjax.storage.checksums import CHECKSUM, with_checksum

TEXTS = [
    "def f(x):\n    return x + 1\n\n\n\tThe cat  sat on the mat, 1234 times.\r\n",
    "Sphinx of black quartz, judge my vow. 你好,世界! naïve café",
    "the quick brown fox jumps over the lazy dog and the cat and the hat",
] * 20
AWKWARD = st.sampled_from(
    [
        *("<s>", "</s>", "<pad>", "<unk>", "<0x41>", "<end>"),  # spell special tokens
        *("\u2581", "\u2585", "\0", "\r\n", "\t", "  ", "\n\n    "),  # SentencePiece treats these
        *("\ufffd", "\ufeff", "\U0001f600", "é", "e\u0301", "\u2028", "\x85"),
    ]
)
ANY_TEXT = st.lists(st.text(max_size=20) | AWKWARD, max_size=12).map("".join)


def byte_level(tmp_path) -> HuggingFaceTokenizerConfig:
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<end>"], show_progress=False
    )
    inner.train_from_iterator(TEXTS, trainer)
    inner.enable_truncation(4)
    inner.enable_padding(length=8)
    inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<end>"}}')
    return HuggingFaceTokenizerConfig(str(tmp_path))


@pytest.fixture(scope="module")
def tokenizers_by_kind(tmp_path_factory):
    tokenizers = {"bytes": BytesTokenizer()}
    for kind in ("bpe", "unigram"):
        config = SentencePieceConfig(322, kind, character_coverage=1.0)
        tokenizers[kind] = SentencePieceTokenizer(train_sentencepiece(config, TEXTS))
    tokenizers["byte_level"] = byte_level(tmp_path_factory.mktemp("hf")).open()
    return tokenizers


@pytest.fixture(params=["bytes", "bpe", "unigram", "byte_level"])
def tokenizer(request, tokenizers_by_kind):
    return tokenizers_by_kind[request.param]


@pytest.mark.parametrize("kind", ["bytes", "bpe", "unigram", "byte_level"])
@settings(max_examples=150, deadline=None)
@given(text=ANY_TEXT)
def test_every_text_comes_back_to_the_byte(kind, tokenizers_by_kind, text):
    tokenizer = tokenizers_by_kind[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == text.encode("utf-8")
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes()[ids].sum() == len(text.encode("utf-8"))
    assert not set(ids) & set(tokenizer.special_tokens.values())


@pytest.mark.parametrize("kind", ["bytes", "bpe", "unigram", "byte_level"])
@settings(max_examples=50, deadline=None)
@given(text=ANY_TEXT)
def test_incremental_decoding_gives_whole_characters(kind, tokenizers_by_kind, text):
    tokenizer = tokenizers_by_kind[kind]
    decoder = TextDecoder(tokenizer)
    pieces = [decoder.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert decoder.flush() == ""


def test_an_unfinished_character_is_shown_as_such_at_the_end():
    decoder = TextDecoder(BytesTokenizer())
    assert [decoder.push(byte) for byte in "é".encode()[:1]] == [""]
    assert decoder.flush() == "\ufffd"
    assert decoder.push(ord("a")) == "a"


def test_ids_and_specials_are_in_range(tokenizer):
    special = tokenizer.special_tokens.values()
    assert {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id} <= set(special)
    assert 0 <= min(special) <= max(special) < tokenizer.vocab_size
    sizes = tokenizer.token_bytes()
    assert sizes.shape == (tokenizer.vocab_size,)
    assert sizes.dtype == np.int32
    assert not sizes[list(special)].any()


def test_a_batch_is_each_text_by_itself(tokenizer):
    texts = ["", "a\u2581b", *TEXTS[:3], "\u2581", "end"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch([]) == []


def test_saving_and_loading_gives_an_equal_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    tokenizer.save(tmp_path / "tokenizer")  # again is fine
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.special_tokens == tokenizer.special_tokens
    assert loaded.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    ids = ("bos_id", "eos_id", "pad_id", "vocab_size")
    assert [getattr(loaded, i) for i in ids] == [getattr(tokenizer, i) for i in ids]


def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(UserError, match="character 1 is half a surrogate"):
        tokenizer.encode_batch(["fine", "a\ud800b"])


def test_fingerprints_differ(tokenizers_by_kind):
    assert len({t.fingerprint for t in tokenizers_by_kind.values()}) == len(tokenizers_by_kind)


def test_a_folder_with_another_tokenizer_is_not_overwritten(tokenizers_by_kind, tmp_path):
    tokenizers_by_kind["bpe"].save(tmp_path)
    with pytest.raises(UserError, match="holds another tokenizer"):
        tokenizers_by_kind["unigram"].save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == tokenizers_by_kind["bpe"].fingerprint


def test_changed_and_damaged_folders_are_noticed(tokenizers_by_kind, tmp_path):
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    tokenizers_by_kind["bpe"].save(tmp_path)
    tokenizers_by_kind["unigram"].save(tmp_path / "other")
    model = (tmp_path / "other" / "sentencepiece.model").read_bytes()
    (tmp_path / "sentencepiece.model").write_bytes(model)
    with pytest.raises(UserError, match="files were changed"):
        load_tokenizer(tmp_path)
    (tmp_path / "sentencepiece.model").write_bytes(model[:100])
    with pytest.raises(UserError, match=r"files were changed: sentencepiece\.model"):
        load_tokenizer(tmp_path)
    description = json.loads((tmp_path / DESCRIPTION).read_text())
    older = {key: value for key, value in description.items() if key not in (CHECKSUM, FILES)}
    (tmp_path / DESCRIPTION).write_text(json.dumps(older))
    with pytest.raises(UserError, match="is not a SentencePiece model"):
        load_tokenizer(tmp_path)
    (tmp_path / "sentencepiece.model").write_bytes(model)
    with pytest.raises(UserError, match="files were changed"):
        load_tokenizer(tmp_path)
    intact = json.loads((tmp_path / "other" / DESCRIPTION).read_text())
    for change, message in [({"format": 99}, "format 99"), ({"kind": "x"}, "unknown kind 'x'")]:
        (tmp_path / "other" / DESCRIPTION).write_text(json.dumps(with_checksum(intact | change)))
        with pytest.raises(UserError, match=message):
            load_tokenizer(tmp_path / "other")
    (tmp_path / DESCRIPTION).write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["bytes", "bpe", "byte_level"])
def test_no_flipped_bit_is_used(tokenizers_by_kind, tmp_path, kind):
    tokenizer = tokenizers_by_kind[kind]
    tokenizer.save(tmp_path)
    add_chat_template(tmp_path, "{{ messages }}")
    assert load_tokenizer(tmp_path).chat_template == "{{ messages }}"
    generator = random.Random(0)
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        broken = bytearray(content)
        for at in generator.sample(range(len(content)), min(70, len(content))):
            broken[at] ^= 1 << generator.randrange(8)
            path.write_bytes(broken)
            try:
                found = load_tokenizer(tmp_path)
            except UserError as error:
                assert str(tmp_path) in str(error)  # noqa: PT017 (either is fine)
            else:
                assert found.fingerprint == tokenizer.fingerprint
                assert found.chat_template == "{{ messages }}"
            broken[at] = content[at]
        path.write_bytes(content)


# SentencePiece ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_training_is_a_function_of_the_text(kind):
    config = SentencePieceConfig(320, kind)
    first = train_sentencepiece(config, TEXTS)
    assert first == train_sentencepiece(config, iter(TEXTS))
    assert first != train_sentencepiece(config, [*TEXTS, *["zebra zoo"] * 50])


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_vocabulary_is_as_large_as_the_text_supports_and_not_too_small_for_it(kind, caplog):
    model = train_sentencepiece(SentencePieceConfig(50_000, kind), TEXTS)
    largest = SentencePieceTokenizer(model).vocab_size
    assert f"vocab_size 50000: the training text supports {largest} entries" in caplog.text
    caplog.clear()
    assert train_sentencepiece(SentencePieceConfig(largest, kind), TEXTS) == model
    assert not caplog.text
    larger = train_sentencepiece(SentencePieceConfig(largest + 1, kind), TEXTS)
    assert SentencePieceTokenizer(larger).vocab_size == largest
    with pytest.raises(UserError, match="alone need"):
        train_sentencepiece(SentencePieceConfig(100, kind), TEXTS)
    with pytest.raises(UserError, match="no text"):
        train_sentencepiece(SentencePieceConfig(300, kind), [""])


def test_text_that_spells_special_tokens_does_not_spoil_training():
    texts = ["<s> </s> <unk> <pad> <0x41> \u2581 \u2585 \0 plain words here"] * 50
    tokenizer = SentencePieceTokenizer(train_sentencepiece(SentencePieceConfig(275), texts))
    assert tokenizer.decode(tokenizer.encode(texts[0])) == texts[0]


def test_whitespace_becomes_tokens_of_its_own(tokenizers_by_kind):
    tokenizer = tokenizers_by_kind["bpe"]
    assert len(tokenizer.encode("\n    ")) < 5
    digits = tokenizer.encode("1234")
    assert len(digits) == 4


def test_long_texts_are_encoded_in_parts(tokenizers_by_kind, monkeypatch):
    monkeypatch.setattr(sentencepiece_tokenizer, "PART", 50)
    for text in ("".join(TEXTS), "x" * 500, "\u2581" * 70, "a\n" * 100):
        ids = tokenizers_by_kind["bpe"].encode(text)
        assert tokenizers_by_kind["bpe"].decode(ids) == text


def existing_model(tmp_path, **options) -> SentencePieceConfig:
    """A model of SentencePiece's defaults: leading space, Unicode normalization."""
    prefix = str(tmp_path / "model")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=prefix, vocab_size=60, minloglevel=2, **options
    )
    return SentencePieceConfig(path=f"{prefix}.model")


def test_an_existing_model_encodes_as_it_does_by_itself(tmp_path):
    config = existing_model(tmp_path)
    tokenizer = config.open()
    reference = sentencepiece.SentencePieceProcessor(config.path)
    for text in ("the cat sat", " the cat", "judge my vow."):
        assert tokenizer.encode(text) == reference.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text.strip()
    assert tokenizer.piece_bytes(reference.encode("the")[0]).startswith(b" ")


def test_a_model_with_only_one_end_uses_it_for_both(tmp_path):
    tokenizer = existing_model(tmp_path, bos_id=-1).open()
    assert tokenizer.bos_id == tokenizer.eos_id == tokenizer.pad_id
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="neither BOS nor EOS"):
        existing_model(tmp_path / "none", bos_id=-1, eos_id=-1).open()


def test_a_missing_model_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        SentencePieceConfig(path=str(tmp_path / "no.model")).open()
    assert SentencePieceConfig().open() is None
    assert BytesConfig().open().vocab_size == 264


# Hugging Face -------------------------------------------------------------------------------------


def test_truncation_and_padding_of_the_file_are_not_for_us(tmp_path):
    tokenizer = byte_level(tmp_path).open()
    assert len(tokenizer.encode("the quick brown foxes")) > 4
    assert len(tokenizer.encode("a")) == 1


def test_names_of_special_tokens(tmp_path):
    config = byte_level(tmp_path)
    tokenizer = config.open()
    assert tokenizer.bos_id == tokenizer.eos_id == tokenizer.special_tokens["<end>"]
    with pytest.raises(UserError, match="has no token '<nope>'"):
        HuggingFaceTokenizerConfig(config.path, bos_token="<nope>").open()
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="does not say which token is BOS or EOS"):
        config.open()
    named = HuggingFaceTokenizerConfig(str(tmp_path / "tokenizer.json"), eos_token="<end>")
    assert named.open().eos_id == tokenizer.eos_id
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"is not a tokenizer\.json"):
        named.open()


def test_metaspace_with_byte_fallback(tmp_path):
    """As Llama 2: a leading space, "▁" for spaces, bytes for rare characters."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocab |= {piece: 259 + i for i, piece in enumerate("▁abct")}
    inner = Inner(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    inner.add_special_tokens(["<s>", "</s>"])
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = HuggingFaceTokenizerConfig(str(tmp_path)).open()
    assert tokenizer.special_tokens == {"<s>": 1, "</s>": 2}
    for text in ("cat", "a  cat", " cat", "naïve\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.piece_bytes(tokenizer.encode("a cat")[2]) == b" "


def test_wordpiece_reads_back_as_words(tmp_path):
    vocab = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "the": 4, "cat": 5, "##s": 6}
    inner = Inner(models.WordPiece(vocab, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.WordPiece()
    inner.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]"])
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = HuggingFaceTokenizerConfig(str(tmp_path)).open()
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 0)
    assert tokenizer.decode(tokenizer.encode("the cats")) == "the cats"
