"""Character offsets of tokens, also for tokenizers that normalize the text."""

import io

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from llmjax.data.tokenizers.config import SentencePieceConfig
from llmjax.data.tokenizers.huggingface.tokenizer import HuggingFaceTokenizer
from llmjax.data.tokenizers.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from llmjax.data.tokenizers.table import BytesTokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the cat and the hat.",
    "def f(x): return x + 1 for the quick cat that sat on the mat",
    "Naïve cafés: 你好, 世界!",
] * 30


def lossless(kind):
    config = SentencePieceConfig(308, kind, character_coverage=0.98)
    return SentencePieceTokenizer(train_sentencepiece(config, TEXTS))


TOKENIZERS = [BytesTokenizer(), lossless("bpe"), lossless("unigram")]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["bytes", "bpe", "unigram"])
@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from("\u2581 aé\U0001f600\n")))
def test_lossless_tokens_stand_for_the_characters_that_they_spell(tokenizer, text):
    ids, spans = tokenizer.encode_offsets(text)
    assert ids == tokenizer.encode(text)
    position = 0
    for token, (first, end) in zip(ids, spans, strict=True):
        assert tokenizer.piece_bytes(token) in text[first:end].encode()
        assert first in (position, position - 1), "the same character, or the next"
        position = end
    assert position == len(text)


def sentencepiece_model(**options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        vocab_size=310,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return SentencePieceTokenizer(model.getvalue())


@pytest.mark.parametrize("options", [{}, {"byte_fallback": True, "add_dummy_prefix": False}])
def test_a_model_that_changes_the_text(options):
    tokenizer = sentencepiece_model(**options)
    text = "The  \uff46ox \u2581 quick dog"
    ids, places = tokenizer.encode_offsets(text)
    assert ids == tokenizer.encode(text)
    assert len(places) == len(ids)
    assert places == sorted(places)
    pieces = [tokenizer.piece_bytes(token).decode(errors="replace") for token in ids]
    for piece, (first, end) in zip(pieces, places, strict=True):
        if piece.isascii() and piece.strip():
            assert piece.strip() == text[first:end].strip().replace("\uff46", "f")


def test_a_leading_space_is_nobodys():
    tokenizer = sentencepiece_model(normalization_rule_name="identity", byte_fallback=True)
    ids, places = tokenizer.encode_offsets("fox dog")
    assert tokenizer.piece_bytes(ids[0]).startswith(b" ")
    assert places[0][0] == 0
    assert places[-1][1] == 7


def test_wordpiece_speaks_of_the_text_as_it_was():
    vocab = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "na", "##ive", "cafe", "!", "z"]
    inner = Inner(models.WordPiece({w: i for i, w in enumerate(vocab)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(strip_accents=True, lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    inner.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]"])
    names = {"bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]", "mask_token": None}
    tokenizer = HuggingFaceTokenizer(inner.to_str().encode(), names)
    text = "Nai\u0308ve  CAFÉ!\U0001f600 [CLS]"
    ids, places = tokenizer.encode_offsets(text)
    assert ids == tokenizer.encode(text)
    assert 1 not in ids
    assert [text[first:end] for first, end in places[:4]] == ["Na", "i\u0308ve", "CAFÉ", "!"]


def test_byte_level_pieces_of_a_character_have_the_whole_of_it():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: number for number, piece in enumerate(["<end>", *alphabet])}
    inner = Inner(models.BPE(vocab, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<end>"])
    names = {"bos_token": None, "eos_token": "<end>", "pad_token": None, "mask_token": None}
    tokenizer = HuggingFaceTokenizer(inner.to_str().encode(), names)
    _, places = tokenizer.encode_offsets("a 日b")
    assert places == [(0, 1), (1, 2), (2, 3), (2, 3), (2, 3), (3, 4)]
