"""The command fill-mask: candidates follow the model's distribution at each mask."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llmjax.cli.fill_mask
from llmjax.convert.importing import import_model
from llmjax.data.tokenizers.config import SentencePieceConfig
from llmjax.data.tokenizers.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from llmjax.errors import UserError
from llmjax.inference.fill_mask import fill_mask
from untrained import TEXTS, in_hand

ENCODER = {"num_encoder_layers": 2, "num_decoder_layers": 0, "token_types": 2}
TEXT = "Paris is <mask> of Fr<mask>nce."


@pytest.fixture(scope="module")
def lm():
    return in_hand(vocab_size=272, lm_head_transform=True, **ENCODER)  # 8 rows are padding


def test_candidates_are_the_models_distribution(lm):
    tokens = lm.tokenizer.wrap(lm.tokenizer.encode_marked(TEXT))[0]
    assert tokens.count(lm.tokenizer.mask_id) == 2
    logits = jax.jit(lm.model.apply)(lm.params, jnp.asarray([tokens]))[0, :, :264]
    shares = np.asarray(jax.nn.softmax(logits, axis=-1))
    positions = [index for index, token in enumerate(tokens) if token == lm.tokenizer.mask_id]
    result = fill_mask(lm, TEXT, top=7)
    assert len(result) == 2
    for index, candidates in zip(positions, result, strict=True):
        assert [candidate.token for candidate in candidates] == np.argsort(-shares[index])[
            :7
        ].tolist()
        np.testing.assert_allclose(
            [candidate.probability for candidate in candidates],
            np.sort(shares[index])[::-1][:7],
            atol=1e-5,
        )
    all_items = fill_mask(lm, "<mask>", top=264)[0]
    assert sum(item.probability for item in all_items) == pytest.approx(1)
    names = {item.token: item.text for item in all_items}
    assert (names[65], names[257], names[0xFF]) == ("A", "<bos>", "\ufffd")


def test_errors_are_reported(lm, tmp_path):
    with pytest.raises(UserError, match="write <mask> for the missing word"):
        fill_mask(lm, "nothing is missing")
    with pytest.raises(UserError, match="exceeds the context of 128"):
        fill_mask(lm, "x" * 200 + "<mask>")
    with pytest.raises(UserError, match="out of range"):
        fill_mask(lm, TEXT, top=0)
    with pytest.raises(UserError, match="only an encoder fills masks"):
        fill_mask(in_hand(), TEXT)
    model = train_sentencepiece(SentencePieceConfig(300), TEXTS)
    with pytest.raises(UserError, match="has no mask token"):
        fill_mask(in_hand(SentencePieceTokenizer(model), **ENCODER), TEXT)
    published = in_hand(run_dir=tmp_path, **ENCODER)
    for name, fine in (("BertForMaskedLM", True), ("BertModel", False)):
        (tmp_path / "origin.json").write_text(json.dumps({"architecture": name}))
        if fine:
            assert len(fill_mask(published, TEXT)) == 2
        else:
            with pytest.raises(UserError, match="without a masked-LM head"):
                fill_mask(published, TEXT)


def test_the_command(lm, command, monkeypatch):
    monkeypatch.setattr(llmjax.cli.fill_mask, "load", lambda run, options: lm)
    code, out, _ = command("fill-mask", "x", "--text", TEXT, "--top", "3")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 8
    assert lines[0] == f"{TEXT}  (mask 1 of 2)"
    best = fill_mask(lm, TEXT, top=3)[0][0]
    assert lines[1].split()[0] == f"{best.probability:.2%}"
    code, out, _ = command("fill-mask", "x", "--text", TEXT, "--json")
    (one,) = json.loads(out)["texts"]
    assert one["masks"][0][0] == {
        "token": best.token,
        "text": best.text,
        "probability": pytest.approx(best.probability, abs=1e-6),
    }
    assert command("fill-mask", "x")[0] == 2


def test_a_published_model_fills_as_in_transformers(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    words = "the capital of france is paris london a city big ##s ##e".split()
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab) + "\n")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocab),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    model = transformers.BertForMaskedLM(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "Paris is the [MASK] of Frances, a [MASK]."
    ids = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        shares = model(**ids).logits[0].softmax(-1)[ids["input_ids"][0] == 4].numpy()
    result = fill_mask(import_model(tmp_path, tmp_path / "run"), text, top=4)
    assert len(result) == len(shares) == 2
    for candidates, expected in zip(result, shares, strict=True):
        assert [candidate.token for candidate in candidates] == np.argsort(-expected)[:4].tolist()
        np.testing.assert_allclose(
            [candidate.probability for candidate in candidates],
            np.sort(expected)[::-1][:4],
            rtol=1e-4,
        )
