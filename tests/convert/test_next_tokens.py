"""Published layers for tokens after next: the paper's equations, and files to the bit."""

import json
import logging
from dataclasses import replace

import hf_models
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import llmjax
from llmjax.convert.exporting import export
from llmjax.convert.families.registry import FAMILIES, family_of
from llmjax.convert.hf.classes import PlainModel, with_next_tokens
from llmjax.convert.importing import import_model
from llmjax.convert.params import without_adapters
from llmjax.losses.token_loss import token_loss

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LAYERS = 2
NAMES = {
    "deepseek-v3-moe": (f"model.layers.{LAYERS}.", "eh_proj", "enorm", "hnorm", "shared_head.norm"),
    "glm4-moe": (f"model.layers.{LAYERS}.", "eh_proj", "enorm", "hnorm", "shared_head.norm"),
    "qwen3-next": ("mtp.", "fc", "pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"),
}
TOKENS = np.random.default_rng(0).integers(3, hf_models.VOCABULARY, (2, 20)).astype(np.int32)


def published(name, folder):
    """Files of a model whose last layer predicts tokens after next, and the whole in PyTorch.

    Returns:
      The whole model, and the module's projection and norms by name.
    """
    case = hf_models.CASES[name]
    if name == "qwen3-next":
        types = [*case.fields["layer_types"][:LAYERS], "full_attention"]
        case = replace(case, fields=case.fields | {"layer_types": types, "mlp_only_layers": []})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(hf_models.CASES, name, case)
        whole = hf_models.build(name, folder)
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    prefix, *names = NAMES[name]
    last, draw = f"model.layers.{LAYERS}.", np.random.default_rng(1)
    inner = prefix + ("layers.0." if prefix == "mtp." else "")
    tensors = {key.replace(last, inner): value for key, value in tensors.items()}
    shapes = [(32, 64), (32,), (32,), (32,)]
    own = {
        part: draw.normal(0.2, 0.25, shape).astype(np.float32)
        for part, shape in zip(names, shapes, strict=True)
    }
    tensors |= {f"{prefix}{part}.weight": value for part, value in own.items()}
    if prefix != "mtp.":
        tensors[f"{prefix}embed_tokens.weight"] = tensors["model.embed_tokens.weight"]
        tensors[f"{prefix}shared_head.head.weight"] = tensors["lm_head.weight"]
    config |= {"num_hidden_layers": LAYERS}
    config |= {} if prefix == "mtp." else {"num_nextn_predict_layers": 1}
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][:LAYERS]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return whole, [torch.tensor(own[part]) for part in names]


def textbook(whole, module, offset):
    """Logits of each token after next, by equations 21 to 23 of arXiv:2412.19437: a projection of
    the normalized state and next embedding, one layer, and the model's own LM head."""
    projection, token_norm, hidden_norm, norm = module
    base, epsilon = whole.model, whole.config.rms_norm_eps
    layer, tokens = base.layers[-1], torch.tensor(TOKENS)

    def rms(x, scale):
        return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * (scale + offset)

    base.layers = base.layers[:-1]
    base.config.num_hidden_layers = LAYERS
    with torch.no_grad():
        states = base(tokens, use_cache=False).last_hidden_state[:, :-1]
        embedded = base.embed_tokens(tokens[:, 1:])
        x = torch.cat([rms(embedded, token_norm), rms(states, hidden_norm)], -1) @ projection.T
        places = torch.arange(x.shape[1])[None]
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        mask = torch.zeros(hidden.shape).masked_fill(hidden, -1e30)[None, None]
        turns = base.rotary_emb(x, places)
        x = layer(x, attention_mask=mask, position_ids=places, position_embeddings=turns)
        x = x[0] if isinstance(x, tuple) else x
        return whole.lm_head(rms(x, norm)).numpy()


@pytest.fixture(scope="module", params=NAMES)
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    parts = published(request.param, folder / "there")
    run = import_model(folder / "there", folder / "run")
    return request.param, folder, parts, run


def test_numbers_are_those_of_the_equations(case):
    name, _, (whole, module), run = case
    lm = llmjax.load(run)
    model, params = lm.model, lm.params
    assert model.config.multi_token_experts

    @jax.jit
    def logits(params):
        states = model.hidden(params, TOKENS)[:, :-1]
        return model.logits(params, model.multi_token_hidden(params, states, TOKENS[:, 1:]).states)

    expected = textbook(whole, module, float(name == "qwen3-next"))
    found = np.asarray(logits(params))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_files_come_back_to_the_bit(case):
    _, folder, _, run = case
    export(run, folder / "out")
    before, after = (load_file(folder / name / "model.safetensors") for name in ("there", "out"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert np.array_equal(value, after[name]), name
    there, again = (json.loads((folder / n / "config.json").read_text()) for n in ("there", "out"))
    assert there.get("num_nextn_predict_layers") == again.get("num_nextn_predict_layers")


def test_it_can_be_trained_further(case):
    lm = llmjax.load(case[3])
    batch = {"inputs": TOKENS[:, :-1], "targets": TOKENS[:, 1:], "weights": np.ones((2, 19))}

    def loss(params):
        return token_loss(lm.model, params, batch, multi_token_weight=0.3).objective

    gradients = jax.jit(jax.grad(loss))(lm.params)["multi_token"]
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_it_can_be_left_out(case, tmp_path):
    _, folder, _, run = case
    plain = import_model(folder / "there", tmp_path / "run", multi_token=False)
    models = [llmjax.load(path) for path in (run, plain)]
    assert "multi_token" not in models[1].params
    found, expected = (np.asarray(lm.logits(TOKENS)) for lm in models)
    assert np.array_equal(found, expected)


@pytest.mark.once
def test_a_head_of_its_own_is_left_out_with_a_warning(tmp_path, caplog):
    published("glm4-moe", tmp_path / "there")
    path = tmp_path / "there" / "model.safetensors"
    tensors = load_file(path)
    tensors[f"model.layers.{LAYERS}.shared_head.head.weight"] = tensors["lm_head.weight"] + 1
    save_file(tensors, path, {"format": "pt"})
    with caplog.at_level(logging.WARNING):
        run = import_model(tmp_path / "there", tmp_path / "run")
    assert "its layer for tokens after next is left out" in caplog.text
    assert not llmjax.load(run).model.config.multi_token


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe"])
def test_several_such_layers_are_left_out(name):
    table = FAMILIES[name].table
    assert table.is_ignored("model.layers.61.eh_proj.weight", 61)
    assert table.is_ignored("model.layers.62.mlp.experts.3.up_proj.weight", 61)
    assert not table.is_ignored("model.layers.60.mlp.experts.3.up_proj.weights", 61)
    assert not FAMILIES["llama"].table.is_ignored("model.layers.61.eh_proj.weight", 61)


def test_a_dense_layer_of_a_model_with_experts_is_not_exported(case):
    _, folder, _, run = case
    family = family_of(json.loads((folder / "there" / "config.json").read_text()))
    shape = llmjax.load(run).model.config
    plain = PlainModel(family, without_adapters(shape))
    assert with_next_tokens(plain, shape).shape.multi_token
    dense = replace(shape, multi_token_experts=False)
    assert not with_next_tokens(plain, dense).shape.multi_token
