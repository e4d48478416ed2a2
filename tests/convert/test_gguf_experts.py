"""GGUF files of mixtures of experts and latent attention: they read back to the bit."""

import re
from dataclasses import replace

import gguf
import jax
import numpy as np
import pytest
from gguf_files import random_params

from llmjax.convert.families.family import canonical
from llmjax.convert.gguf.models import ARCHITECTURES, choose_family, gguf_tensors, model_keys
from llmjax.convert.gguf.reading import open_gguf
from llmjax.convert.gguf.writing import add_value, write_file
from llmjax.convert.hf.mapping import BoundTable, lazy_tensors, read_params
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.model.latent import LatentConfig
from llmjax.model.model import Model
from llmjax.model.moe_config import MoEConfig
from llmjax.model.rope import Llama3Scaling, YarnScaling

MOE = MoEConfig(num_experts=8, experts_per_token=2)
PLAIN = ModelConfig(
    vocab_size=96,
    max_length=64,
    d_model=32,
    d_ff=64,
    num_decoder_layers=2,
    num_heads=4,
    num_kv_heads=2,
    norm_epsilon=1e-5,
    tie_embeddings=False,
)
FEW = replace(MOE, expert_width=48)
DENSE_FIRST = replace(
    FEW,
    dense_layers=(0,),
    scores="sigmoid",
    selection_bias=True,
    weight_scale=2.5,
    shared_width=48,
)
LATENT = replace(
    PLAIN,
    num_kv_heads=None,
    norm_epsilon=1e-6,
    rope_interleaved=True,
    mla=LatentConfig(32, 24, nope_head_dim=16, rope_head_dim=8, value_head_dim=12),
)
LLAMA4 = replace(
    PLAIN,
    num_decoder_layers=8,
    d_ff=40,
    head_dim=16,
    window=8192,
    window_chunks=True,
    global_layers=(3, 7),
    unrotated_layers=(3, 7),
    query_growth=0.1,
    qk_norm=True,
    qk_norm_over="rotated",
    rope_interleaved=True,
    rope_scaling=Llama3Scaling(8.0, 512, 1.0, 1.0),
    moe=MoEConfig(
        8,
        1,
        48,
        (0, 2, 4, 6),
        scores="sigmoid",
        normalize=False,
        weight_inputs=True,
        shared_width=48,
    ),
)
MODELS = {
    "mixtral": replace(PLAIN, head_dim=16, moe=MOE),
    "qwen2_moe": replace(
        PLAIN,
        qkv_bias=True,
        moe=replace(FEW, normalize=False, shared_width=40, shared_gate=True),
    ),
    "qwen3_moe": replace(PLAIN, head_dim=16, qk_norm=True, moe=FEW),
    "olmoe": replace(
        PLAIN,
        num_kv_heads=None,
        qk_norm=True,
        qk_norm_over="projection",
        moe=replace(MOE, normalize=False),
    ),
    "granitemoe": replace(
        PLAIN,
        embed_multiplier=6.0,
        residual_multiplier=0.5,
        attention_scale=0.25,
        logit_scale=0.25,
        moe=MOE,
    ),
    "glm4_moe": replace(PLAIN, head_dim=16, rotary_fraction=0.5, qkv_bias=True, moe=DENSE_FIRST),
    "gpt_oss": replace(
        PLAIN,
        head_dim=16,
        window=8,
        global_layers=(1,),
        qkv_bias=True,
        attention_out_bias=True,
        attention_sinks=True,
        activation="quick_gelu",
        activation_limit=7.0,
        up_offset=1.0,
        rope_scaling=YarnScaling(4.0, 16, truncate=False),
        moe=replace(MOE, router_bias=True, expert_bias=True),
    ),
    "llama4_text": LLAMA4,
    "deepseek_v3": replace(
        LATENT,
        rope_scaling=YarnScaling(4.0, 16, mscale=1.0, mscale_all_dim=1.0),
        moe=replace(DENSE_FIRST, groups=4, groups_per_token=2),
    ),
    "deepseek_v2": replace(
        LATENT,
        rope_scaling=YarnScaling(4.0, 16, mscale=0.707, mscale_all_dim=0.707),
        moe=replace(FEW, normalize=False, dense_layers=(0,), shared_width=96, group_score="max"),
    ),
}


def written(path, shape, kind="F32"):
    """Write a file of random parameters; returns its family and them."""
    family, params = choose_family(shape), random_params(shape)
    write_file(path, family, shape, list(gguf_tensors(family, shape, params)), kind, {})
    return family, params


def read(path):
    opened = open_gguf(path)
    config = opened.read_config()
    return opened.family, config, read_params(opened, BoundTable(opened.table, Model(config)))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_to_the_bit(tmp_path, name):
    path = tmp_path / "m.gguf"
    family, params = written(path, MODELS[name])
    family_read, _, params_read = read(path)
    assert family.model_type == family_read.model_type == name
    jax.tree.map(np.testing.assert_array_equal, params_read, params)
    tensors = {tensor.name for tensor in gguf.GGUFReader(path).tensors}
    known = gguf.MODEL_TENSORS[
        next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == ARCHITECTURES[name])
    ]
    names = {gguf.TENSOR_NAMES[kind] for kind in known}
    bare = {name.rsplit(".", 1)[0] for name in tensors}
    assert {re.sub(r"^blk\.\d+", "blk.{bid}", name) for name in bare} <= names


def test_older_deepseek_files_have_keys_and_values_in_one_tensor(tmp_path):
    """As converted before llama.cpp attended to compressed keys: one tensor, attn_kv_b."""
    shape = MODELS["deepseek_v3"]
    family, params = choose_family(shape), random_params(shape)
    bound = BoundTable(family.table, Model(shape))
    whole = {t.name: t for t in lazy_tensors(params, bound) if "kv_b_proj" in t.name}
    tensors = [t for t in gguf_tensors(family, shape, params) if "attn_k_b" not in t.name]
    tensors = [
        replace(
            whole[f"model.layers.{t.name.split('.')[1]}.self_attn.kv_b_proj.weight"],
            name=t.name.replace("attn_v_b", "attn_kv_b"),
        )
        if "attn_v_b" in t.name
        else t
        for t in tensors
    ]
    write_file(tmp_path / "m.gguf", family, shape, tensors, "F32", {})
    _, config, params_read = read(tmp_path / "m.gguf")
    assert config.mla == shape.mla
    jax.tree.map(np.testing.assert_array_equal, params_read, params)


def test_experts_in_four_bits_are_read_as_the_library_reads_them(tmp_path):
    """MXFP4, as gpt-oss is published."""
    shape = MODELS["gpt_oss"]
    family, params = choose_family(shape), random_params(shape)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gpt-oss")
    for key, value in model_keys(family, shape).items():
        add_value(writer, key, value)
    expected = {}
    for tensor in gguf_tensors(family, shape, params):
        values = tensor.make()
        if tensor.name.endswith("_exps.weight"):
            kind = gguf.GGMLQuantizationType.MXFP4
            stored = gguf.quants.quantize(values, kind)
            writer.add_tensor(tensor.name, stored, raw_dtype=kind)
            expected[tensor.name] = gguf.dequantize(stored, kind)
        else:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _, _, params_read = read(tmp_path / "m.gguf")
    experts = params_read["decoder"]["layers"]["mlp"]["experts"]
    for part in ("gate", "up", "down"):
        first = expected[f"blk.0.ffn_{part}_exps.weight"].swapaxes(1, 2)
        np.testing.assert_array_equal(experts[part]["kernel"][0], first)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"window": 4096}, "window"),
        ({"unrotated_layers": (3,)}, "unrotated_layers"),
        ({"global_layers": (3,), "unrotated_layers": (3,)}, "global_layers"),
        ({"query_growth": 0.2}, "query_growth"),
        ({"qk_norm": False}, "qk_norm"),
        ({"qkv_bias": True, "attention_out_bias": True}, "qkv_bias"),
        ({"rope_scaling": Llama3Scaling(8.0, 500, 1.0, 1.0)}, "rope_scaling"),
        ({"moe": replace(LLAMA4.moe, dense_layers=(0,))}, "moe"),
    ],
)
def test_llama_cpp_computes_one_llama_4_alone(fields, why):
    with pytest.raises(UserError, match=f"llama4_text does not support.*{why}"):
        choose_family(replace(LLAMA4, **fields))


def test_llama_4_without_chunks(tmp_path):
    none = {"window": None, "window_chunks": False, "global_layers": (), "unrotated_layers": ()}
    shape = replace(LLAMA4, **none, query_growth=0.0)
    written(tmp_path / "m.gguf", shape)
    assert canonical(read(tmp_path / "m.gguf")[1]) == canonical(shape)


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        ("qwen3_moe", {"normalize": False}, "moe"),
        ("qwen3_moe", {"dense_layers": (0,)}, "dense_layers"),
        ("deepseek_v2", {"groups": 4, "groups_per_token": 2}, "group_score"),
        ("deepseek_v3", {"dense_layers": (1,)}, "moe"),
    ],
)
def test_refuses_what_llama_cpp_computes_otherwise(name, fields, why):
    shape = MODELS[name]
    with pytest.raises(UserError, match=why):
        choose_family(replace(shape, moe=replace(shape.moe, **fields)))
