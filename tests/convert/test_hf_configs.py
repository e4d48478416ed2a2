"""Published config files are read completely, to the last field."""

from dataclasses import replace

import numpy as np
import pytest

from llmjax.convert.families.family import TensorNames, canonical
from llmjax.convert.families.registry import FAMILIES, family_for, family_of
from llmjax.errors import UserError
from llmjax.model import families
from llmjax.model.config import ModelConfig
from llmjax.model.rope import Llama3Scaling, LongRopeScaling, Unscaled, rope_frequencies


class Names:
    """A tensor source with only names."""

    def __init__(self, *names):
        self._names = names

    def names(self):
        return self._names


def decoder(model_type, **fields):
    """The sizes that most configs state."""
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_hidden_layers": 6,
        "max_position_embeddings": 4096,
        "vocab_size": 1000,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.44.0",
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
    }
    return {"model_type": model_type, **sizes, **fields}


PUBLISHED = {
    "Llama 3.2": decoder(
        "llama",
        attention_bias=False,
        head_dim=16,
        hidden_act="silu",
        mlp_bias=False,
        num_key_value_heads=2,
        pretraining_tp=1,
        rms_norm_eps=1e-05,
        rope_scaling={
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 2048,
            "rope_type": "llama3",
        },
        rope_theta=500000.0,
        tie_word_embeddings=True,
    ),
    "SmolLM2": decoder(
        "llama",
        is_llama_config=True,
        rope_interleaved=False,
        rope_scaling=None,
        rope_theta=100000,
        rms_norm_eps=1e-05,
        **{"transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}}},
    ),
    "Falcon 3": decoder(
        "llama", attention_bias=False, head_dim=32, hidden_act="silu", mlp_bias=False,
        num_key_value_heads=2, pretraining_tp=1, rms_norm_eps=1e-06, rope_scaling=None,
        rope_theta=1000042, tie_word_embeddings=False,
    ),
    "SmolLM3": decoder(
        "smollm3",
        layer_types=["full_attention"] * 6,
        max_window_layers=28,
        no_rope_layer_interval=4,
        no_rope_layers=[1, 1, 1, 0, 1, 1],
        sliding_window=None,
        use_sliding_window=False,
        rope_scaling=None,
        rope_theta=5000000.0,
        num_key_value_heads=4,
        rms_norm_eps=1e-06,
        pretraining_tp=2,
    ),
    "Mistral 7B": decoder(
        "mistral", num_key_value_heads=2, rms_norm_eps=1e-05, rope_theta=10000.0,
        sliding_window=4096, hidden_act="silu", tie_word_embeddings=False,
    ),
    "Qwen2.5": decoder(
        "qwen2", max_window_layers=21, num_key_value_heads=2, rms_norm_eps=1e-06,
        rope_theta=1000000.0, sliding_window=131072, use_sliding_window=False, use_mrope=False,
    ),
    "Qwen3": decoder(
        "qwen3", attention_bias=False, head_dim=32, max_window_layers=6, rope_scaling=None,
        rope_theta=1000000, sliding_window=None, use_sliding_window=False, rms_norm_eps=1e-06,
    ),
    "Gemma": decoder(
        "gemma", head_dim=16, hidden_act="gelu", hidden_activation=None, rms_norm_eps=1e-06,
        rope_scaling=None, rope_theta=10000.0, num_key_value_heads=1, attention_bias=False,
    ),
    "Gemma 2": decoder(
        "gemma2", attn_logit_softcapping=50.0, cache_implementation="hybrid",
        final_logit_softcapping=30.0, head_dim=16, hidden_act="gelu_pytorch_tanh",
        hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=256, sliding_window=4096,
        rms_norm_eps=1e-06, rope_theta=10000.0, num_key_value_heads=2, attention_bias=False,
    ),
    "Gemma 3": decoder(
        "gemma3_text", attn_logit_softcapping=None, cache_implementation="hybrid",
        final_logit_softcapping=None, head_dim=16, hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=256, rope_local_base_freq=10000, rope_scaling=None,
        rope_theta=1000000, sliding_window=512, sliding_window_pattern=6, rms_norm_eps=1e-06,
        num_key_value_heads=1, attention_bias=False,
    ),
    "DeepSeek V3": decoder(
        "deepseek_v3", attention_bias=False, first_k_dense_replace=3, kv_lora_rank=64,
        q_lora_rank=96, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, n_group=8,
        n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8, topk_group=4,
        topk_method="noaux_tc", scoring_func="sigmoid", moe_layer_freq=1, ep_size=1,
        moe_intermediate_size=128, num_nextn_predict_layers=1, routed_scaling_factor=2.5,
        norm_topk_prob=True, num_key_value_heads=4, rms_norm_eps=1e-06, rope_theta=10000,
        rope_scaling={
            "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096, "type": "yarn",
        },
    ),
    "DeepSeek V2 Lite": decoder(
        "deepseek_v2", attention_bias=False, first_k_dense_replace=1, kv_lora_rank=64,
        q_lora_rank=None, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, n_group=1,
        topk_group=1, topk_method="greedy", n_routed_experts=64, n_shared_experts=2,
        num_experts_per_tok=6, aux_loss_alpha=0.001, seq_aux=True, scoring_func="softmax",
        moe_intermediate_size=32, moe_layer_freq=1, ep_size=1, norm_topk_prob=False,
        num_key_value_heads=4, rms_norm_eps=1e-06, rope_theta=10000, routed_scaling_factor=1.0,
        rope_scaling={
            "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707,
            "mscale_all_dim": 0.707, "original_max_position_embeddings": 4096, "type": "yarn",
        },
    ),
    "Llama 4 Scout": decoder(
        "llama4_text", _attn_implementation_autoset=True, attention_bias=False,
        attention_chunk_size=8192, attn_scale=0.1, attn_temperature_tuning=4, floor_scale=8192,
        for_llm_compressor=False, head_dim=128, hidden_act="silu", interleave_moe_layer_step=1,
        intermediate_size_mlp=16384, moe_layers=list(range(6)), no_rope_layers=[1, 1, 1, 0, 1, 1],
        num_experts_per_tok=1, num_key_value_heads=2, num_local_experts=16, use_qk_norm=True,
        output_router_logits=False, rms_norm_eps=1e-05, rope_theta=500000.0,
        router_aux_loss_coef=0.001, router_jitter_noise=0.0, tie_word_embeddings=False,
        rope_scaling={
            "factor": 16.0, "high_freq_factor": 1.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3",
        },
    ),
    "Llama 4 Maverick": decoder(
        "llama4_text", attention_bias=False, attention_chunk_size=8192, attn_scale=0.1,
        attn_temperature_tuning=4, floor_scale=8192, head_dim=128, hidden_act="silu",
        interleave_moe_layer_step=2, intermediate_size_mlp=16384, no_rope_layers=[],
        num_experts_per_tok=1, num_key_value_heads=2, num_local_experts=128, rope_scaling=None,
        rms_norm_eps=1e-05, rope_theta=500000.0, use_qk_norm=False, router_jitter_noise=0.0,
    ),
    "Mixtral": decoder(
        "mixtral", hidden_act="silu", num_key_value_heads=2, num_local_experts=8,
        num_experts_per_tok=2, output_router_logits=False, rms_norm_eps=1e-05,
        rope_theta=1000000.0, router_aux_loss_coef=0.02, sliding_window=None,
        tie_word_embeddings=False,
    ),
    "Phi 3.5 MoE": decoder(
        "phimoe", attention_bias=True, hidden_act="silu", input_jitter_noise=0.01,
        lm_head_bias=True, num_experts_per_tok=2, num_key_value_heads=2, num_local_experts=16,
        original_max_position_embeddings=64, output_router_logits=False, rms_norm_eps=1e-05,
        rope_scaling={
            "long_factor": [1.5] * 8, "long_mscale": 1.243, "original_max_position_embeddings": 64,
            "short_factor": [1.0] * 8, "short_mscale": 1.243, "type": "longrope",
        },
        rope_theta=10000.0, router_aux_loss_coef=0.0, router_jitter_noise=0.01,
        sliding_window=64, tie_word_embeddings=False,
    ),
    "Qwen 1.5 MoE": decoder(
        "qwen2_moe", decoder_sparse_step=1, hidden_act="silu", max_window_layers=21,
        moe_intermediate_size=128, norm_topk_prob=False, num_experts=60, num_experts_per_tok=4,
        num_key_value_heads=4, output_router_logits=False, rms_norm_eps=1e-06,
        rope_theta=1000000.0, router_aux_loss_coef=0.001, shared_expert_intermediate_size=512,
        sliding_window=32768, use_sliding_window=False, tie_word_embeddings=False,
    ),
    "Qwen3 MoE": decoder(
        "qwen3_moe", attention_bias=False, decoder_sparse_step=1, head_dim=32, hidden_act="silu",
        max_window_layers=6, mlp_only_layers=[], moe_intermediate_size=96, norm_topk_prob=True,
        num_experts=128, num_experts_per_tok=8, num_key_value_heads=2, output_router_logits=False,
        rms_norm_eps=1e-06, rope_scaling=None, rope_theta=1000000.0, router_aux_loss_coef=0.001,
        sliding_window=None, use_sliding_window=False, tie_word_embeddings=False,
    ),
    "Qwen3-Next": decoder(
        "qwen3_next", decoder_sparse_step=1, full_attention_interval=4, head_dim=256,
        hidden_act="silu", linear_conv_kernel_dim=4, linear_key_head_dim=16,
        linear_num_key_heads=2, linear_num_value_heads=4, linear_value_head_dim=16,
        mlp_only_layers=[], moe_intermediate_size=64, norm_topk_prob=True, num_experts=16,
        num_experts_per_tok=10, num_key_value_heads=2, output_router_logits=False,
        partial_rotary_factor=0.25, rms_norm_eps=1e-06, rope_scaling=None, rope_theta=10000000,
        router_aux_loss_coef=0.001, shared_expert_intermediate_size=64, tie_word_embeddings=False,
    ),
    "OLMoE": decoder(
        "olmoe", attention_bias=False, clip_qkv=None, hidden_act="silu", norm_topk_prob=False,
        num_experts=64, num_experts_per_tok=8, num_key_value_heads=4, output_router_logits=False,
        rms_norm_eps=1e-05, rope_scaling=None, rope_theta=10000.0, router_aux_loss_coef=0.01,
        tie_word_embeddings=False,
    ),
    "GLM 4.5": decoder(
        "glm4_moe", attention_bias=True, first_k_dense_replace=1, head_dim=16, hidden_act="silu",
        moe_intermediate_size=96, n_group=1, n_routed_experts=128, n_shared_experts=1,
        norm_topk_prob=True, num_experts_per_tok=8, num_key_value_heads=2,
        num_nextn_predict_layers=1, partial_rotary_factor=0.5, rms_norm_eps=1e-05,
        rope_scaling=None, rope_theta=1000000, routed_scaling_factor=1.0, topk_group=1,
        use_qk_norm=False, tie_word_embeddings=False,
    ),
    "Granite 3.1 MoE": decoder(
        "granitemoe", attention_bias=False, attention_multiplier=0.015625,
        embedding_multiplier=12.0, hidden_act="silu", logits_scaling=6.0, num_experts_per_tok=8,
        num_key_value_heads=2, num_local_experts=40, output_router_logits=False,
        residual_multiplier=0.22, rms_norm_eps=1e-06, rope_scaling=None, rope_theta=10000000.0,
        router_aux_loss_coef=0.0, tie_word_embeddings=True,
    ),
    "gpt-oss": decoder(
        "gpt_oss", attention_bias=True, experts_per_token=4, head_dim=16, hidden_act="silu",
        initial_context_length=4096, layer_types=["sliding_attention", "full_attention"] * 3,
        num_experts_per_tok=4, num_key_value_heads=2, num_local_experts=32,
        output_router_logits=False, rms_norm_eps=1e-05, rope_theta=150000,
        rope_scaling={
            "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0,
            "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": False,
        },
        router_aux_loss_coef=0.9, sliding_window=128, swiglu_limit=7.0, tie_word_embeddings=False,
    ),
    "OLMo 2": decoder(
        "olmo2", attention_bias=False, hidden_act="silu", rms_norm_eps=1e-06, rope_scaling=None,
        rope_theta=500000, tie_word_embeddings=False, num_key_value_heads=4,
    ),
    "Granite 3.3": decoder(
        "granite", attention_bias=False, attention_multiplier=0.015625, embedding_multiplier=12.0,
        hidden_act="silu", logits_scaling=8.0, mlp_bias=False, num_key_value_heads=2,
        residual_multiplier=0.22, rms_norm_eps=1e-05, rope_scaling=None, rope_theta=10000000.0,
        tie_word_embeddings=True,
    ),
    "InternLM 3": decoder(
        "internlm3", bias=False, head_dim=16, hidden_act="silu", num_key_value_heads=2,
        qkv_bias=False, rms_norm_eps=1e-05, rope_theta=50000000,
        rope_scaling={"factor": 6.0, "rope_type": "dynamic"}, tie_word_embeddings=False,
    ),
    "Command R": decoder(
        "cohere", attention_bias=False, hidden_act="silu", layer_norm_eps=1e-05, logit_scale=0.0625,
        model_max_length=131072, num_key_value_heads=4, rope_theta=8000000.0, use_qk_norm=False,
        pretraining_tp=1,
    ),
    "Command R7B": decoder(
        "cohere2", _sliding_window_pattern=4, attention_bias=False, head_dim=16, hidden_act="silu",
        layer_norm_eps=1e-05, layer_switch=4, logit_scale=0.25, num_key_value_heads=2,
        order_of_interleaved_layers="local_attn_first", position_embedding_type="rope_gptj",
        rope_scaling=None, rope_theta=50000, rotary_pct=1.0, sliding_window=4096,
        sliding_window_pattern=4, use_embedding_sharing=True, use_gated_activation=True,
        use_parallel_block=True, use_parallel_embedding=False,
    ),
    "StarCoder 2": decoder(
        "starcoder2", embedding_dropout=0.1, hidden_act="gelu_pytorch_tanh", mlp_type="default",
        norm_epsilon=1e-05, norm_type="layer_norm", num_key_value_heads=2, residual_dropout=0.1,
        rope_theta=999999.4420358813, sliding_window=4096, use_bias=True,
    ),
    "Phi 3.5": decoder(
        "phi3",
        attention_bias=False,
        auto_map={"AutoConfig": "configuration_phi3.Phi3Config"},
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        hidden_act="silu",
        num_key_value_heads=4,
        original_max_position_embeddings=2048,
        rms_norm_eps=1e-05,
        rope_scaling={"long_factor": [1.5] * 8, "short_factor": [1.0] * 8, "type": "longrope"},
        rope_theta=10000.0,
        sliding_window=262144,
        tie_word_embeddings=False,
    ),
    "Phi 4 mini": decoder(
        "phi3",
        attention_bias=False,
        full_attn_mod=1,
        interpolate_factor=1,
        lm_head_bias=False,
        mlp_bias=False,
        num_key_value_heads=2,
        original_max_position_embeddings=4096,
        partial_rotary_factor=0.75,
        rms_norm_eps=1e-05,
        rope_scaling={"long_factor": [1] * 6, "short_factor": [1.0] * 6, "type": "longrope"},
        rope_theta=10000.0,
        sliding_window=262144,
        tie_word_embeddings=True,
    ),
    "BERT Chinese": decoder(
        "bert",
        architectures=["BertForMaskedLM"],
        directionality="bidi",
        pooler_fc_size=768,
        pooler_num_attention_heads=12,
        pooler_num_fc_layers=3,
        pooler_size_per_head=128,
        pooler_type="first_token_transform",
        type_vocab_size=2,
    ),
    "Pythia": decoder(
        "gpt_neox", hidden_act="gelu", layer_norm_eps=1e-05, rotary_emb_base=10000,
        rotary_pct=0.25, tie_word_embeddings=False, use_parallel_residual=True,
        classifier_dropout=0.1, hidden_dropout=0.0, attention_bias=True, rope_scaling=None,
    ),
    "GPT-2": {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1, "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256,
        "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2",
        "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
        "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True}}, "vocab_size": 50257,
    },
    "BERT": decoder(
        "bert", hidden_act="gelu", hidden_dropout_prob=0.1, layer_norm_eps=1e-12,
        position_embedding_type="absolute", type_vocab_size=2, gradient_checkpointing=False,
    ),
    "RoBERTa": decoder("roberta", layer_norm_eps=1e-05, pad_token_id=1, type_vocab_size=1),
    "XLM-RoBERTa": decoder(
        "xlm-roberta", layer_norm_eps=1e-05, pad_token_id=1, type_vocab_size=1, output_past=True
    ),
    "DistilBERT": {
        "activation": "gelu", "attention_dropout": 0.1, "dim": 64, "dropout": 0.1,
        "hidden_dim": 96, "initializer_range": 0.02, "max_position_embeddings": 512,
        "model_type": "distilbert", "n_heads": 4, "n_layers": 6, "pad_token_id": 0,
        "qa_dropout": 0.1, "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False,
        "tie_weights_": True, "vocab_size": 1000,
    },
    "ModernBERT": decoder(
        "modernbert", attention_bias=False, classifier_activation="gelu", classifier_bias=False,
        classifier_dropout=0.0, classifier_pooling="mean", cls_token_id=50281, decoder_bias=True,
        deterministic_flash_attn=False, embedding_dropout=0.0, global_attn_every_n_layers=3,
        global_rope_theta=160000.0, gradient_checkpointing=False, hidden_activation="gelu",
        initializer_cutoff_factor=2.0, layer_norm_eps=1e-05, local_attention=128,
        local_rope_theta=10000.0, mlp_bias=False, mlp_dropout=0.0, norm_bias=False, norm_eps=1e-05,
        position_embedding_type="absolute", reference_compile=None, repad_logits_with_grad=False,
        sep_token_id=50282, sparse_pred_ignore_index=-100, sparse_prediction=False,
    ),
    "Flan-T5": {
        "architectures": ["T5ForConditionalGeneration"], "d_ff": 1024, "d_kv": 64, "d_model": 512,
        "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0, "is_encoder_decoder": True,
        "layer_norm_epsilon": 1e-06, "model_type": "t5", "n_positions": 512,
        "num_decoder_layers": 8, "num_heads": 6, "num_layers": 8, "output_past": True,
        "pad_token_id": 0, "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32, "tie_word_embeddings": False, "use_cache": True,
        "task_specific_params": {"summarization": {"num_beams": 4}}, "vocab_size": 32128,
    },
    "mT5": {
        "d_ff": 1024, "d_kv": 64, "d_model": 512, "decoder_start_token_id": 0,
        "dropout_rate": 0.1, "eos_token_id": 1, "feed_forward_proj": "gated-gelu",
        "initializer_factor": 1.0, "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06,
        "model_type": "mt5", "num_decoder_layers": 8, "num_heads": 6, "num_layers": 8,
        "pad_token_id": 0, "relative_attention_num_buckets": 32, "tie_word_embeddings": False,
        "tokenizer_class": "T5Tokenizer", "use_cache": True, "vocab_size": 250112,
    },
}  # fmt: skip


def understood(name, *tensors, **changes):
    values = PUBLISHED[name] | changes
    return family_of(values).read_config(values, Names(*tensors))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_understood_and_written_again(name):
    values = PUBLISHED[name]
    family = family_of(values)
    config = family.read_config(values, Names())
    assert family_for(config, family.model_type) is family
    again = family.read_config(family.write_config(config), TensorNames(family, config))
    assert canonical(again) == canonical(config)


def test_every_family_has_a_published_config():
    assert {values["model_type"] for values in PUBLISHED.values()} == set(FAMILIES)


def test_what_they_say_is_what_is_built():
    llama = understood("Llama 3.2")
    assert llama.rope_scaling == Llama3Scaling(32.0, 2048, 1.0, 4.0)
    assert (llama.kv_heads, llama.rope_theta, llama.tie_embeddings) == (2, 500000.0, True)
    assert understood("SmolLM3").unrotated_layers == (3,)
    scout, maverick = understood("Llama 4 Scout"), understood("Llama 4 Maverick")
    assert (scout.window, scout.global_layers, scout.unrotated_layers) == (8192, (3,), (3,))
    assert (scout.moe.dense_layers, maverick.moe.dense_layers) == ((), (0, 2, 4))
    frequencies, _ = rope_frequencies(scout.rope_scaling, scout.rope_theta, 128, 4096)
    plain, _ = rope_frequencies(Unscaled(), scout.rope_theta, 128, 4096)
    assert set(np.round(plain / frequencies, 4)) == {1.0, 16.0}, "nothing in between"
    assert understood("Gemma 3").global_layers == (5,)
    assert understood("Gemma 3").window_rope_theta == 10000.0
    assert understood("Gemma 2").global_layers == (1, 3, 5)
    assert understood("Gemma").activation == "gelu_tanh"
    phi = understood("Phi 3.5").rope_scaling
    assert isinstance(phi, LongRopeScaling)
    assert phi.original_length == 2048
    assert understood("Pythia").rotary_fraction == 0.25
    modern = understood("ModernBERT")
    assert (modern.window, modern.global_layers) == (65, (0, 3))
    roberta = understood("RoBERTa", max_position_embeddings=514)
    assert (roberta.max_length, roberta.first_position) == (512, 2)
    flan = understood("Flan-T5", "shared.weight", "lm_head.weight")
    assert (flan.logit_scale, flan.attention_scale) == (1.0, 1.0)


def test_null_and_absent_windows_differ():
    assert understood("Mistral 7B", sliding_window=None).window is None
    absent = {k: v for k, v in PUBLISHED["Mistral 7B"].items() if k != "sliding_window"}
    assert family_of(absent).read_config(absent, Names()).window == 4096


def test_both_spellings_of_rotary_scaling_say_the_same():
    old = PUBLISHED["Llama 3.2"]
    new = {k: v for k, v in old.items() if k not in ("rope_theta", "rope_scaling")}
    new["rope_parameters"] = old["rope_scaling"] | {"rope_theta": old["rope_theta"]}
    family = FAMILIES["llama"]
    assert family.read_config(old, Names()) == family.read_config(new, Names())
    plain = understood("SmolLM2", rope_parameters={"rope_type": "default", "rope_theta": 7.0})
    assert plain.rope_scaling == Unscaled()


@pytest.mark.parametrize(
    ("name", "changes", "word"),
    [
        ("GPT-2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("GPT-2", {"add_cross_attention": True}, "add_cross_attention"),
        ("BERT", {"is_decoder": True}, "is_decoder"),
        ("BERT", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("Gemma 3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("Qwen3", {"layer_types": ["full_attention"]}, "layer_types"),
        ("ModernBERT", {"classifier_bias": True}, "classifier_bias"),
        ("Flan-T5", {"feed_forward_proj": "gated-mish"}, "feed_forward_proj"),
        ("Mistral 7B", {"layer_types": ["sliding_attention"] * 6}, "layer_types"),
    ],
)
def test_what_cannot_be_honoured_is_named(name, changes, word):
    with pytest.raises(UserError, match=word):
        understood(name, **changes)


@pytest.mark.parametrize(
    ("config", "model_type"),
    [
        (families.tiny(256), "qwen3"),
        (families.gpt2("124M"), "gpt2"),
        (families.llama("8B"), "llama"),
        (ModelConfig(vocab_size=256, window=9), "mistral"),
        (ModelConfig(vocab_size=256), "llama"),
    ],
)
def test_models_of_our_own_have_a_family(config, model_type):
    assert family_for(config).model_type == model_type


def test_what_no_family_has_is_named():
    with pytest.raises(UserError, match=r"logit_softcap"):
        family_for(replace(families.tiny(256), logit_softcap=7.0))
    with pytest.raises(UserError, match="positions"):
        family_for(ModelConfig(vocab_size=256, positions="sinusoidal"))


JUNK = (-1, 0, 1, 7, 1e30, float("nan"), "x", "", [], [1], {}, {"type": "yarn"}, True, 10**12)


@pytest.mark.parametrize("name", PUBLISHED)
def test_junk_is_refused_in_words(name):
    values = PUBLISHED[name]
    family, refused = family_of(values), 0
    for field in values.keys() - {"model_type"}:
        for junk in JUNK:
            try:
                config = family.read_config(values | {field: junk}, Names())
            except UserError:
                refused += 1
            else:
                assert isinstance(config, ModelConfig)
    assert refused > len(values)


SCALINGS = (
    {"type": "linear", "factor": 2.0},
    PUBLISHED["Llama 3.2"]["rope_scaling"],
    {"rope_type": "yarn", "factor": 2.0, "beta_fast": 20.0, "mscale": 1.0, "mscale_all_dim": 0.5},
    {"type": "longrope", "long_factor": [2.0] * 8, "short_factor": [1.0] * 8, "factor": 2.0},
)


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: s.get("type") or s["rope_type"])
def test_junk_in_scalings_is_refused_or_can_be_computed(scaling):
    for field in scaling.keys() | {"original_max_position_embeddings", "attention_factor"}:
        for junk in JUNK:
            try:
                config = understood("Llama 3.2", rope_scaling=scaling | {field: junk})
            except UserError:
                continue
            turns, factor = rope_frequencies(config.rope_scaling, config.rope_theta, 16, 4096)
            assert np.isfinite(turns).all()
            assert factor > 0


@pytest.mark.parametrize("length", [64, 4096, 12_000])
def test_dynamic_scaling_is_that_of_transformers_for_rows_of_max_length(length):
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    from transformers import LlamaConfig

    scaling = {"rope_type": "dynamic", "factor": 2.5, "rope_theta": 500.0}
    reference = LlamaConfig(max_position_embeddings=4096, head_dim=16, rope_parameters=scaling)
    expected, _ = rope.ROPE_INIT_FUNCTIONS["dynamic"](reference, seq_len=length)
    values = PUBLISHED["Llama 3.2"] | {"rope_scaling": {"type": "dynamic", "factor": 2.5}}
    read = FAMILIES["llama"].read_config(values, Names()).rope_scaling
    actual, factor = rope_frequencies(read, 500.0, 16, length)
    np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-5)
    assert factor == 1.0
