"""Every field of the config has an effect."""

from contextlib import nullcontext
from dataclasses import fields, replace

import jax
import numpy as np
import pytest
from shapes import BOTH, MESHES, batch

from llmjax.errors import UserError
from llmjax.losses.token_loss import token_loss
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig, compute_problems
from llmjax.model.config import ModelConfig
from llmjax.model.latent import LatentConfig
from llmjax.model.linear import LinearConfig
from llmjax.model.lora import LoraConfig
from llmjax.model.model import Model
from llmjax.model.moe_config import MoEConfig
from llmjax.model.rope import LinearScaling, LongRopeScaling
from llmjax.parallel.mesh import MeshConfig, make_mesh

BASE = replace(BOTH, norm="layernorm", positions="rotary", window=None, qk_norm=False)
OTHER = {
    "vocab_size": 64,
    "max_length": 32,
    "d_model": 32,
    "num_encoder_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "num_kv_heads": 2,
    "head_dim": 8,
    "d_ff": 32,
    "layer_d_ff": (32, 64),
    "activation": "silu",
    "gated": False,
    "norm": "rmsnorm",
    "norm_placement": "post",
    "first_norm": False,
    "norm_epsilon": 1e-3,
    "norm_bias": True,
    "norm_unit_offset": True,
    "parallel_residual": True,
    "shared_norm": True,
    "residual_multiplier": 0.5,
    "positions": "learned",
    "first_position": 2,
    "token_types": 2,
    "relative_buckets": 8,
    "relative_max_distance": 64,
    "rope_theta": 5000.0,
    "window_rope_theta": 100.0,
    "rope_scaling": LinearScaling(2.0),
    "rotary_fraction": 0.5,
    "rope_interleaved": True,
    "unrotated_layers": (0,),
    "mla": LatentConfig(8, None, 4, 2, 4),
    "linear": LinearConfig(2, 4, 4, 4, 2, attention_layers=(1,)),
    "attention_gate": True,
    "qkv_bias": True,
    "attention_out_bias": True,
    "activation_limit": 0.5,
    "up_offset": 1.0,
    "mlp_bias": True,
    "moe": MoEConfig(),
    "lm_head_bias": True,
    "qk_norm": True,
    "qk_norm_over": "projection",
    "qk_norm_kind": "layernorm",
    "attention_sinks": True,
    "attention_scale": 1.0,
    "query_growth": 0.5,
    "query_growth_length": 4,
    "window": 3,
    "window_chunks": True,
    "global_layers": (0,),
    "tie_embeddings": True,
    "embed_scale": False,
    "embed_norm": True,
    "embed_multiplier": 2.0,
    "attention_softcap": None,
    "logit_scale": 0.5,
    "logit_softcap": None,
    "lm_head_transform": True,
    "lora": LoraConfig(),
    "multi_token": True,
    "multi_token_experts": True,
    "pooler": True,
}
COMPUTE = ComputeConfig(dropout=0.1)
OTHER_COMPUTE = {
    "dropout": 0.0,
    "init_std": 0.5,
    "dtype": "bfloat16",
    "remat": "full",
    "attention": "blocked",
    "reduce_dtype": "bfloat16",
    "offload": ("input",),
    "context_parallel": "gather",
    "quantization": "int8",
    "quantized_params": ("*.mlp.*",),
    "quantized_gradients": "none",
    "pipeline_microbatches": 4,
    "pipeline_rounds": 2,
    "expert_buffer": 3.0,
}
COMPUTE_NEEDS = {
    "offload": {"remat": "full"},
    "quantized_params": {"quantization": "int8"},
    "quantized_gradients": {"quantization": "int8"},
}
WINDOW = {"window": 3}
NEEDS = {
    "multi_token": {"num_encoder_layers": 0},
    "multi_token_experts": {
        "num_encoder_layers": 0,
        "multi_token": True,
        "moe": MoEConfig(4, 2, dense_layers=(0, 1)),
    },
    "attention_sinks": {"num_encoder_layers": 0},
    "mla": {"num_encoder_layers": 0},
    "linear": {"num_encoder_layers": 0},
    "attention_gate": {"num_encoder_layers": 0},
    "max_length": {"positions": "learned"},
    "layer_d_ff": {"num_encoder_layers": 2},
    "first_position": {"positions": "learned"},
    "relative_buckets": {"positions": "relative"},
    "relative_max_distance": {"positions": "relative"},
    "qk_norm_over": {"qk_norm": True},
    "qk_norm_kind": {"qk_norm": True},
    "window_rope_theta": WINDOW,
    "window_chunks": WINDOW,
    "query_growth": {"unrotated_layers": (0,)},
    "query_growth_length": {"unrotated_layers": (0,), "query_growth": 0.5},
    "global_layers": WINDOW,
    "parallel_residual": {"num_encoder_layers": 0},
    "shared_norm": {"num_encoder_layers": 0, "parallel_residual": True},
}


def program(config: ModelConfig, compute: ComputeConfig = COMPUTE) -> str:
    """Text of a config's programs: initialization, and loss with its derivative."""
    model = Model(resolve(config, config.vocab_size), compute)

    def loss(params):
        return token_loss(model, params, batch(config), dropout_key=jax.random.key(0)).objective

    start = jax.make_jaxpr(model.init)(jax.random.key(0))
    step = jax.make_jaxpr(jax.grad(loss))(model.abstract_params())
    return f"{start} {step} {[np.asarray(const).tolist() for const in step.consts]}"


@pytest.fixture(scope="module")
def programs():
    """The programs of configs to compare with."""
    return {name: program(replace(BASE, **NEEDS.get(name, {}))) for name in ("", *NEEDS)}


@pytest.mark.once
@pytest.mark.parametrize("name", [field.name for field in fields(ModelConfig)])
def test_every_field_changes_the_program(name, programs):
    base = replace(BASE, **NEEDS.get(name, {}))
    changed = replace(base, **{name: OTHER[name]})
    assert changed != base
    assert program(changed) != programs[name if name in NEEDS else ""]


@pytest.mark.parametrize(
    "name", [field.name for field in fields(ComputeConfig) if field.name != "xla_options"]
)
def test_every_field_of_compute_changes_the_program(name, programs):
    """All but options of the compiler."""
    base = replace(COMPUTE, **COMPUTE_NEEDS.get(name, {}))
    changed = replace(base, **{name: OTHER_COMPUTE[name]})
    over_devices, config = {"reduce_dtype": "data", "context_parallel": "sequence"}.get(name), BASE
    devices = make_mesh(MESHES[over_devices]) if over_devices else None
    if name.startswith("pipeline"):
        devices = make_mesh(MeshConfig(stage=2), jax.devices()[:2])
        config = replace(BASE, num_encoder_layers=0, num_decoder_layers=4)
    if name.startswith("expert"):
        devices = make_mesh(MeshConfig(expert=2), jax.devices()[:2])
        config = replace(BASE, moe=MoEConfig(4, 2))
    with nullcontext() if devices is None else jax.set_mesh(devices):
        before = programs[""] if base == COMPUTE and devices is None else program(config, base)
        assert program(config, changed) != before
        specs, changed_specs = (Model(config, c).abstract_params() for c in (base, changed))
        assert specs == changed_specs, "it never changes the parameters"


BAD = {
    "heads": ({"num_heads": 3}, "d_model 16 does not divide into 3 heads"),
    "kv": ({"num_kv_heads": 3}, "num_heads 4 is no multiple of num_kv_heads 3"),
    "odd": ({"head_dim": 5}, "even number of dimensions"),
    "layers": ({"num_encoder_layers": 0, "num_decoder_layers": 0}, "no layers"),
    "negative layers": ({"num_encoder_layers": -1}, "must not be negative"),
    "negative": ({"d_ff": -4}, "d_ff must be positive or None"),
    "no width": ({"d_model": 0}, "d_model must be positive"),
    "nan": ({"norm_epsilon": float("nan")}, "norm_epsilon must be positive"),
    "window": ({"window": 0}, "window must be positive or None"),
    "softcap": ({"logit_softcap": -1.0}, "logit_softcap"),
    "widths": ({"layer_d_ff": (4,)}, "layer_d_ff has 1 widths for 2 layers"),
    "width": ({"layer_d_ff": (4, 0)}, "are not all positive"),
    "word": ({"positions": "absolute"}, "positions must be one of learned, sinusoidal, rotary"),
    "layer": ({"window": 4, "global_layers": (7,)}, "global_layers .7. are not all among"),
    "no window": ({"global_layers": (0,)}, "no meaning without window"),
    "two stacks": ({"parallel_residual": True}, "a single stack"),
    "first norm": ({"first_norm": False, "norm_placement": "post"}, "first_norm false needs"),
    "share": ({"rotary_fraction": 1.5}, "rotary_fraction must be above 0"),
    "factor": ({"rope_scaling": LinearScaling(0.0)}, "rope_scaling.factor must be positive"),
    "factors": ({"rope_scaling": LongRopeScaling((1.0,), (1.0,), 8)}, "must be 2 positive numbers"),
    "bias": ({"norm": "rmsnorm", "norm_bias": True}, "norm_bias"),
    "vocabulary": ({"vocab_size": 20}, "vocab_size 20 < the tokenizer's 32"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_named(name):
    change, message = BAD[name]
    with pytest.raises(UserError, match=message):
        resolve(replace(BASE, **change), 32)


def test_all_mistakes_at_once():
    changes = [BAD[name][0] for name in ("heads", "nan", "window", "word", "softcap")]
    with pytest.raises(UserError) as caught:
        resolve(replace(BASE, **{k: v for change in changes for k, v in change.items()}), 32)
    for name in ("heads", "nan", "window", "word", "softcap"):
        assert BAD[name][1].split(" of ")[0] in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropout": 1.0}, "dropout must be"),
        ({"init_std": float("nan")}, "init_std must be positive"),
        ({"dtype": "float8"}, "dtype must be one of float32, bfloat16"),
        ({"remat": "some"}, "remat must be one of"),
        ({"remat": "query,,key"}, "remat must be one of"),
        ({"remat": "full", "offload": ("dots",)}, "offload: 'dots' is not one of input"),
        ({"offload": ("input",)}, "offload: remat none keeps all"),
    ],
)
def test_mistakes_of_compute_are_named(change, message):
    (problem,) = compute_problems(ComputeConfig(**change))
    assert message in problem


def test_the_vocabulary_is_rounded_up():
    assert resolve(ModelConfig(), 1000).vocab_size == 1024
    assert resolve(ModelConfig(vocab_size=50257), 50257).vocab_size == 50257
