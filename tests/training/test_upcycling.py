"""A sparse model begins with the function of the dense one whose parameters it takes."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.model.lora import LoraConfig
from llmjax.model.model import Model
from llmjax.model.moe_config import MoEConfig
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.run.config.build import ConfigError
from llmjax.run.config.checks import validate
from llmjax.run.config.schema import Config, UpcyclingConfig
from llmjax.run.parameters import read_parameters
from llmjax.tasks.heads import Network
from llmjax.training.initialization import initial_params, resolve_init_from
from llmjax.training.upcycling import check_upcycling, upcycled
from task_runs import begun
from untrained import drawn

DENSE = ModelConfig(
    vocab_size=32, d_model=16, d_ff=24, num_decoder_layers=2, num_heads=2, max_length=16
)
BIASED = replace(DENSE, gated=False, mlp_bias=True, activation="gelu")
TOKENS = np.random.default_rng(0).integers(0, 32, (2, 16))
MOE = MoEConfig(num_experts=4, experts_per_token=2)


def begins(dense, moe, noise=0.0, seed=0):
    """Parameters of the dense model, and those of the sparse one made of them."""
    sparse = replace(dense, moe=moe)
    check_upcycling("runs/dense", dense, sparse)
    params = drawn(Model(dense), seed)
    new = Model(sparse).init(jax.random.key(1))
    return params, upcycled(params, new, jax.random.key(2), (dense, sparse), noise)


def logits(config, params):
    return np.asarray(jax.jit(Model(config).logits)(params, jnp.asarray(TOKENS)))


@pytest.mark.once
@pytest.mark.parametrize(
    ("dense", "moe"),
    [
        (DENSE, MOE),
        (DENSE, replace(MOE, scores="sigmoid", selection_bias=True, groups=2, group_score="max")),
        (DENSE, replace(MOE, num_experts=6, expert_width=8, experts_per_token=3, weight_scale=2.5)),
        (
            DENSE,
            replace(MOE, num_experts=8, expert_width=8, shared_width=8, dense_layers=(0,)),
        ),
        (
            replace(DENSE, layer_d_ff=(40, 24)),
            replace(MOE, expert_width=12, shared_width=12, shared_gate=True, dense_layers=(0,)),
        ),
        (BIASED, replace(MOE, expert_bias=True, expert_width=12, router_bias=True)),
        (BIASED, replace(MOE, expert_bias=True, expert_width=12, shared_width=12, num_experts=5)),
    ],
    ids=["copies", "sigmoid", "pieces", "shared", "shared gate", "biases", "shared bias"],
)
def test_the_sparse_model_begins_with_the_function_of_the_dense_one(dense, moe):
    params, sparse = begins(dense, moe)
    assert jax.tree.structure(sparse) == jax.tree.structure(
        Model(replace(dense, moe=moe)).abstract_params()
    )
    expected = logits(dense, params)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(
        logits(replace(dense, moe=moe), sparse), expected, rtol=2e-4, atol=2e-5
    )


@pytest.mark.once
def test_weights_that_are_not_normalized_are_made_up_for_as_the_router_begins():
    """Its logits are small beside those of a trained one, so that weights are nearly equal."""
    moe = replace(MOE, num_experts=8, normalize=False)
    params, sparse = begins(DENSE, moe)
    expected = logits(DENSE, params)
    close = logits(replace(DENSE, moe=moe), sparse)
    assert np.std(close - expected) < 0.2 * np.std(expected)


@pytest.mark.once
def test_noise_is_relative_to_the_kernels_and_differs_between_copies():
    params, sparse = begins(DENSE, MOE, noise=0.5)
    before = params["decoder"]["layers"]["mlp"]["up"]["kernel"]
    difference = np.asarray(sparse["decoder"]["layers"]["mlp"]["experts"]["up"]["kernel"])
    difference = difference - np.asarray(before)[:, None]
    np.testing.assert_allclose(difference.std((0, 2, 3)), 0.5 * np.std(before), rtol=0.1)
    assert np.abs(difference[:, 0] - difference[:, 1]).min() > 0


@pytest.mark.once
def test_parameters_on_a_mesh_are_those_of_one_device(tmp_path):
    base = begun(tmp_path / "base", replace(DENSE, vocab_size=0))
    moe = replace(MOE, num_experts=8, expert_width=12, shared_width=0)
    config = Config(init_from=str(base.folder), model=ModelConfig(moe=moe))
    config = resolve_init_from(replace(config, upcycling=UpcyclingConfig(noise=0.1)))
    network = Network(Model(resolve(config.model, 259)))
    results = [
        initial_params(config, network, make_mesh(mesh, jax.devices()[:mesh_size]))
        for mesh, mesh_size in (
            (MeshConfig(), 1),
            (MeshConfig(fsdp=2, expert=2, tensor=2), 8),
        )
    ]
    one, many = (jax.tree.map(np.asarray, result) for result in results)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), one, many)
    dense = Model(replace(network.model.config, moe=None)).abstract_params()
    rows = read_parameters(base, 0, dense)["embedding"]["rows"]
    np.testing.assert_array_equal(one["embedding"]["rows"], np.asarray(rows))


@pytest.mark.once
@pytest.mark.parametrize(
    ("dense", "moe", "reason"),
    [
        (replace(DENSE, moe=MOE), replace(MOE, num_experts=8), "has experts already"),
        (DENSE, replace(MOE, expert_width=10), "decoder layer 0: its MLP of width 24"),
        (DENSE, replace(MOE, expert_width=24, shared_width=24), "shared_width 24"),
        (DENSE, replace(MOE, expert_width=8), "num_experts 4 is no multiple of the 3 pieces"),
        (DENSE, replace(MOE, expert_width=12, experts_per_token=1), "experts_per_token 1"),
        (DENSE, replace(MOE, expert_width=12, groups=4, groups_per_token=4), "a group of experts"),
        (DENSE, replace(MOE, scores="sparsemixer", normalize=False), "sparsemixer"),
        (DENSE, replace(MOE, weight_inputs=True), "weight_inputs"),
        (DENSE, replace(MOE, dense_layers=(7,)), "dense_layers [7]"),
        (BIASED, MOE, "expert_bias must be true"),
    ],
)
def test_what_does_not_match_is_refused_by_name(dense, moe, reason):
    with pytest.raises(UserError) as error:
        check_upcycling("runs/dense", dense, replace(dense, moe=moe))
    assert reason in str(error.value)
    assert "runs/dense" in str(error.value)


@pytest.mark.once
def test_adapters_and_noise_without_experts_are_refused():
    with pytest.raises(UserError, match=r"model\.lora"):
        check_upcycling("base", DENSE, replace(DENSE, moe=MOE, lora=LoraConfig()))
    with pytest.raises(ConfigError, match=r"upcycling\.noise"):
        validate(Config(upcycling=UpcyclingConfig(noise=0.1)))
    # The layers are those of the other run, so that their numbers are not checked before.
    moe = replace(MOE, dense_layers=(20,))
    validate(Config(init_from="runs/other", model=ModelConfig(moe=moe)))
