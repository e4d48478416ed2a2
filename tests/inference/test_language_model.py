"""A run's model: logits, scores and text, on one device and on a mesh."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llmjax
from llmjax.data.config import DataConfig
from llmjax.data.stages import StageConfig
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.decoding.config import DecodingConfig
from llmjax.errors import UserError
from llmjax.inference.language_model import LanguageModel, load
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from untrained import drawn, make_run

TOKENIZER = BytesTokenizer()
PROMPTS = ["hello", "", "a longer prompt of several words"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def lm(run):
    return load(run.folder)


def lm_of(**fields):
    """An untrained model in memory."""
    shape = {"vocab_size": 264, "max_length": 128, "d_model": 16, "num_heads": 4}
    model = Model(ModelConfig(**shape | {"num_decoder_layers": 2} | fields))
    return LanguageModel(model, drawn(model), TOKENIZER, Config(data=DataConfig(length=128)))


def test_quantized_training_changes_nothing_that_is_loaded(run, monkeypatch):
    trained = ComputeConfig(quantization="int8", quantized_params=("*.mlp.*",))
    config = replace(run.config(), compute=trained)
    monkeypatch.setattr(Run, "config", lambda self: config)
    assert load(run.folder).model.compute.quantized is None


def test_logits_are_the_models(lm):
    tokens = np.array([[257, 72, 105], [257, 65, 66]])
    result = lm.logits(tokens)
    assert (result.shape, result.dtype) == ((2, 3, lm.model.config.vocab_size), jnp.float32)
    np.testing.assert_allclose(result, lm.model.apply(lm.params, jnp.asarray(tokens)), atol=1e-5)
    np.testing.assert_allclose(lm.logits(tokens[:1, :2]), result[:1, :2], atol=1e-5)


def test_logits_of_an_encoder_decoder_are_of_its_targets():
    lm = lm_of(num_encoder_layers=1, num_decoder_layers=1)
    inputs, targets = np.array([[72, 105, 33]]), np.array([[65, 66, 67, 68]])
    result = lm.logits(inputs, targets)
    assert result.shape == (1, 4, 264)
    # Target 2 is predicted from BOS and two targets, not from itself or later ones.
    other = lm.logits(inputs, np.array([[65, 66, 1, 2]]))
    np.testing.assert_allclose(result[:, :3], other[:, :3], atol=1e-6)
    assert np.abs(result[:, 3] - other[:, 3]).max() > 1e-3
    assert np.abs(result - lm.logits(inputs[:, ::-1], targets)).max() > 1e-3
    with pytest.raises(UserError, match="need targets"):
        lm.logits(inputs)


def test_an_encoder_has_logits_but_does_not_generate():
    lm = lm_of(num_encoder_layers=1, num_decoder_layers=0)
    assert lm.logits([[72, 105, 33]]).shape == (1, 3, 264)
    with pytest.raises(UserError, match="no decoder"):
        lm.generate("x")
    with pytest.raises(UserError, match="not a causal decoder"):
        lm.score("x")


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ([1, 2, 3], "must be integers"),
        ([[0.5]], "must be integers"),
        ([[]], "must be integers"),
        ([[-1]], "outside"),
        ([[10**6]], "outside"),
        ([[1] * 65], "exceed the context of 64"),
    ],
)
def test_invalid_arrays_are_refused(lm, tokens, reason):
    with pytest.raises(UserError, match=reason):
        lm.logits(tokens)


def test_targets_want_an_encoder(lm):
    with pytest.raises(UserError, match="take no targets"):
        lm.logits([[1]], [[1]])


def test_score_agrees_with_logits(lm):
    text = "né 🙂!"
    result = lm.score(text)
    tokens = [*TOKENIZER.encode(text), TOKENIZER.eos_id]
    logits = np.asarray(lm.logits([[TOKENIZER.bos_id, *tokens[:-1]]]), np.float64)[0]
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -logp[np.arange(len(tokens)), tokens]
    np.testing.assert_allclose(result.nats, nats, rtol=1e-4)
    assert result.bits_per_byte == pytest.approx(nats.sum() / np.log(2) / len(text.encode()), 1e-5)
    assert result.total.context == 32, "as long as the rows that were trained on"
    assert result.perplexity == pytest.approx(np.exp(result.loss_per_token))


def test_the_context_is_that_of_the_longest_stage_reached(lm):
    stages = (StageConfig(5, length=48), StageConfig(9, length=16), StageConfig(20, length=64))
    data = replace(lm.config.data, stages=stages)
    staged = replace(lm, config=replace(lm.config, data=data))
    contexts = {step: replace(staged, step=step).context for step in (0, 5, 6, 20, 21)}
    assert contexts == {0: 32, 5: 32, 6: 48, 20: 48, 21: 64}


@pytest.mark.parametrize(
    "fields",
    [
        {"window": 9, "num_kv_heads": 2},
        {"positions": "learned", "norm": "layernorm", "num_kv_heads": 1, "gated": False},
    ],
)
def test_cached_decoding_is_the_argmax_of_the_full_forward_pass(fields):
    lm = lm_of(**fields)
    for completion in lm.generate(PROMPTS, max_new_tokens=64, temperature=0):
        prompt = [TOKENIZER.bos_id, *TOKENIZER.encode(completion.prompt)]
        full = np.zeros((1, 128), np.int32)
        full[0, : len(prompt) + len(completion.tokens)] = [*prompt, *completion.tokens]
        logits = np.asarray(lm.logits(full))[0, len(prompt) - 1 :]
        expected = logits[: len(completion.tokens)].argmax(-1)
        assert completion.tokens == tuple(expected)
        assert len(completion.tokens) == 64 or completion.finish == "eos"


def test_an_encoder_decoder_reads_its_prompt_with_the_encoder():
    lm = lm_of(num_encoder_layers=1, num_decoder_layers=1)
    for completion in lm.generate(PROMPTS, max_new_tokens=12, temperature=0):
        read = [TOKENIZER.wrap(TOKENIZER.encode(completion.prompt))[0]]
        written = np.array([completion.tokens])
        logits = np.asarray(lm.logits(read, written))[0]
        np.testing.assert_array_equal(logits.argmax(-1), written[0])


def test_generate_takes_a_config_or_fields(lm):
    config = DecodingConfig(max_new_tokens=8, seed=3, samples=2)
    result = lm.generate(PROMPTS, config)
    assert [c.prompt for c in result] == [p for p in PROMPTS for _ in range(2)]
    assert lm.generate(PROMPTS, max_new_tokens=8, seed=3, samples=2) == result
    assert lm.generate("hello", config, samples=1)[0].tokens == result[0].tokens
    pieces = list(lm.stream(PROMPTS, config))
    for row, completion in enumerate(result):
        assert "".join(piece.text for piece in pieces if piece.row == row) == completion.text
    assert lm.generate([]) == []
    stop = max((c.text for c in result), key=len)[2:4]
    for completion, stopped in zip(result, lm.generate(PROMPTS, config, stop=stop), strict=True):
        assert stopped.text == completion.text.partition(stop)[0]
    with pytest.raises(UserError, match="no such option; did you mean temperature"):
        lm.generate("x", temprature=1)
    with pytest.raises(UserError, match="longer than the model's context of 64"):
        lm.generate("x" * 64)


def test_load_takes_the_newest_step_or_the_one_asked_for(run, lm):
    assert lm.step == 7
    third = load(run.folder, step=3)
    assert third.step == 3
    assert np.abs(lm.logits([[5]]) - third.logits([[5]])).max() > 1e-3
    assert "step 3" in repr(third)
    assert "1 device)" in repr(third)
    with pytest.raises(UserError, match="no checkpoint of step 4"):
        load(run.folder, step=4)
    with pytest.raises(UserError, match="no such run folder"):
        load(run.folder / "elsewhere")


def test_load_is_offered_by_the_package(run):
    assert llmjax.load is load
    assert llmjax.LanguageModel is LanguageModel


def test_half_precision_is_held_and_computed(run, lm):
    half = load(run.folder, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype("bfloat16")}
    assert half.model.compute.dtype == "bfloat16"
    np.testing.assert_allclose(half.logits([[5, 6]]), lm.logits([[5, 6]]), atol=0.5)
    assert half.score("hello").nats.sum() == pytest.approx(lm.score("hello").nats.sum(), rel=0.02)
    assert len(half.generate("a", max_new_tokens=3)[0].tokens) <= 3


def test_a_mesh_changes_nothing(run, lm, tmp_path):
    """Saved on one device and loaded on eight, and vice versa."""
    sizes = MeshConfig(data=2, fsdp=2, tensor=2)
    spread = load(run.folder, mesh=sizes)
    assert "8 devices" in repr(spread)
    assert any(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(spread.params))
    single = load(make_run(tmp_path, steps=(7,), mesh=sizes).folder)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(single.params)} == {1}
    tokens = [[257, 72, 105], [257, 65, 66], [1, 2, 3]]
    np.testing.assert_allclose(spread.logits(tokens), lm.logits(tokens), atol=1e-5)
    np.testing.assert_allclose(single.logits(tokens), lm.logits(tokens), atol=1e-5)
    text = "some text of more than a window " * 2
    np.testing.assert_allclose(spread.score(text).nats, lm.score(text).nats, rtol=1e-4)
    how = DecodingConfig(max_new_tokens=8, top_p=0.9)
    alone, together = lm.generate(PROMPTS, how), spread.generate(PROMPTS, how)
    assert [c.tokens for c in alone] == [c.tokens for c in together]
    assert make_mesh(sizes) == spread.mesh


@pytest.mark.parametrize(("weights", "mesh"), [("int8", None), ("int4", MeshConfig(fsdp=8))])
def test_quantized_weights_stay_narrow(run, lm, weights, mesh):
    narrow = load(run.folder, quantize=weights, mesh=mesh)
    kernels = narrow.params["decoder"]["layers"][0]["mlp"]
    rows = narrow.params["embedding"]["rows"]
    dtypes = {"int8": jnp.int8, "int4": jnp.uint8}
    assert kernels["up"]["kernel"].values.dtype == dtypes[weights]
    assert (rows.values.dtype, rows.values.shape) == (jnp.int8, (lm.model.config.vocab_size, 16))
    assert narrow.params["decoder"]["norm"]["scale"].dtype == jnp.float32
    assert mesh is None or len(rows.values.sharding.device_set) == 8
    score, exact = (float(np.sum(model.score("hello you").nats)) for model in (narrow, lm))
    assert score == pytest.approx(exact, rel=0.2)
    assert score != exact
    assert len(narrow.generate("he", max_new_tokens=3, temperature=0)[0].tokens) <= 3
