"""Refusals of unsupported architectures name the part that is missing."""

import pytest
from gguf_files import write

from llmjax.convert.families.registry import FAMILIES, family_of
from llmjax.convert.gguf.reading import open_gguf
from llmjax.errors import UserError

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "hidden_act": "silu"}
PARTS = {
    "mamba": ({"state_size": 16, "expand": 2}, "state-space layers (Mamba)"),
    "jamba": ({"mamba_d_state": 16, "attn_layer_period": 8}, "state-space layers (Mamba)"),
    "falcon_h1": (
        {"mamba_d_ssm": 1024, "key_multiplier": 0.5},
        "state-space layers (Mamba), multipliers of projections",
    ),
    "nemotron_h": (
        {"ssm_state_size": 128, "mlp_hidden_act": "relu2", "layers_block_type": ["mamba", "moe"]},
        "state-space layers (Mamba), the activation 'relu2', layers of type 'mamba', layers of "
        "type 'moe'",
    ),
    "kimi_linear": ({"linear_attn_config": {"kda_layers": [1]}}, "Kimi Delta Attention"),
    "minimax": ({"linear_attn_alpha_factor": 1.0}, "lightning attention"),
    "rwkv": ({"rescale_every": 6}, "a recurrence in place of attention (RWKV)"),
    "recurrent_gemma": ({"lru_width": 64}, "recurrent layers (RG-LRU)"),
    "lfm2": ({"conv_L_cache": 3, "layer_types": ["conv"]}, "convolutions in place of attention"),
    "deepseek_v32": ({"index_topk": 2048}, "sparse attention by an indexer"),
    "deepseek_v4": ({"hc_mult": 4}, "hyper-connections"),
    "longcat_flash": ({"zero_expert_num": 4}, "experts that compute nothing"),
    "bloom": ({"n_head": 4}, "positions by distance (ALiBi)"),
    "falcon": ({"alibi": True}, "positions by distance (ALiBi)"),
    "apertus": ({"hidden_act": "xielu"}, "the activation 'xielu'"),
    "novel": ({"spin_rate": 3, "head_dim": 16}, "does not know its fields spin_rate"),
    "plain": ({"rms_norm_eps": 1e-6}, "has no table of its tensors' names"),
}


@pytest.mark.parametrize("model_type", PARTS)
def test_the_part_is_named(model_type):
    fields, part = PARTS[model_type]
    with pytest.raises(UserError) as caught:
        family_of(SIZES | fields | {"model_type": model_type})
    assert part in caught.value.reason
    assert "\n" not in str(caught.value)


def test_a_model_type_that_is_none_is_still_refused():
    for values in ({}, {"model_type": 3}, {"model_type": None}):
        with pytest.raises(UserError, match="is not supported"):
            family_of(values)


@pytest.mark.once
def test_every_model_of_transformers_is_imported_or_told_why_not():
    """No architecture with a part of its own is refused by its name alone."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    transformers.logging.set_verbosity_error()
    for model_type in ("mamba2", "jamba", "zamba2", "bamba", "falcon_h1", "nemotron_h", "lfm2"):
        assert model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        assert model_type not in FAMILIES
        values = transformers.AutoConfig.for_model(model_type).to_dict()
        with pytest.raises(UserError, match=r"llmjax does not have (state-space|convolutions)"):
            family_of(values)


def test_keys_of_a_gguf_file_tell_it_too(tmp_path):
    write(tmp_path / "m.gguf", "mamba", {"block_count": 2, "ssm.conv_kernel": 4}, {})
    with pytest.raises(UserError, match=r"architecture mamba, with state-space layers"):
        open_gguf(tmp_path / "m.gguf")
    write(tmp_path / "n.gguf", "plamo", {"block_count": 2}, {})
    with pytest.raises(UserError, match=r"is of architecture plamo; supported"):
        open_gguf(tmp_path / "n.gguf")
