"""DeepSeek V2 and V3: multi-head latent attention. Models whose layers are all dense."""

from dataclasses import dataclass
from typing import Any

from llmjax.convert.families.family import Family
from llmjax.convert.families.llama import ENDS, NORMS_BEFORE, SILU, tied
from llmjax.convert.families.tables import DECODER, GROUPED, SIZES, decoder_classes, dense, mlp
from llmjax.convert.hf.attention_fields import Latent, Rotary, num_layers
from llmjax.convert.hf.config import HFConfig
from llmjax.convert.hf.fields import Field, Renamed, constant
from llmjax.convert.hf.names import Layout, NameRow, NameTable, Segment
from llmjax.model.config import ModelConfig

_D = "model.layers.{layer}"
_A = "decoder.layers.attention"
_HEADS = Layout("(h k) d -> d h k"), Layout("(h k) -> h k")


def _part(param: str, tensor: str, kernel: str, sizes: tuple[str, str], number: int) -> NameRow:
    """The name row of one of two projections side by side in a tensor, along axis j."""
    return NameRow(f"{_A}.{param}", tensor, Layout(kernel, Segment("j", sizes, number)))


_KV_DOWN, _KV_UP = f"{_D}.self_attn.kv_a_proj_with_mqa", f"{_D}.self_attn.kv_b_proj"
_DOWN, _UP = ("c", "s"), ("o", "w")
LATENT_ROWS = (
    *(
        NameRow(row.param, row.tensor, row.layout, only=("compresses_queries", compressed))
        for name, layout, compressed in (
            ("q_proj", _HEADS, False),
            ("q_b_proj", (Layout("(h k) q -> q h k"), Layout("(h k) -> h k")), True),
        )
        for row in dense(f"{_A}.query", f"{_D}.self_attn.{name}", layout)
    ),
    *dense(
        f"{_A}.query_down", f"{_D}.self_attn.q_a_proj", (Layout("q d -> d q"), Layout("q -> q"))
    ),
    NameRow(f"{_A}.query_norm.scale", f"{_D}.self_attn.q_a_layernorm.weight", Layout("q -> q")),
    *(
        row
        for number, name in enumerate(("kv_down", "key_rope"))
        for row in (
            _part(f"{name}.kernel", f"{_KV_DOWN}.weight", "j d -> d j", _DOWN, number),
            _part(f"{name}.bias", f"{_KV_DOWN}.bias", "j -> j", _DOWN, number),
        )
    ),
    NameRow(f"{_A}.kv_norm.scale", f"{_D}.self_attn.kv_a_layernorm.weight", Layout("c -> c")),
    _part("key.kernel", f"{_KV_UP}.weight", "(h j) c -> c h j", _UP, 0),
    _part("value.kernel", f"{_KV_UP}.weight", "(h j) c -> c h j", _UP, 1),
    *dense(f"{_A}.out", f"{_D}.self_attn.o_proj", (Layout("d (h w) -> h w d"), Layout("d -> d"))),
)


@dataclass(frozen=True)
class DenseLayers:
    """The number of first layers without experts, which must be all of them."""

    default: int

    def read(self, hf: HFConfig) -> dict[str, Any]:
        first = hf.get("first_k_dense_replace", int, self.default)
        if first < num_layers(hf):
            why = "the layers after these have experts, which llmjax does not read in this family"
            raise hf.error("first_k_dense_replace", first, why)
        return {}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {"first_k_dense_replace": config.num_decoder_layers}


def _deepseek(model_type: str, name: str, dense_layers: int, *fields: Field) -> Family:
    return Family(
        model_type,
        f"{name}ForCausalLM",
        (
            *SIZES,
            *DECODER,
            GROUPED,
            Renamed("norm_epsilon", "rms_norm_eps", float, 1e-6),
            SILU,
            Latent(),
            Rotary(fraction=None),
            Renamed("qkv_bias attention_out_bias", "attention_bias", bool, False),
            DenseLayers(dense_layers),
            tied(False),
            *fields,
        ),
        NameTable(
            rows=(
                *ENDS,
                *LATENT_ROWS,
                *NORMS_BEFORE,
                *mlp(
                    "decoder.layers.mlp",
                    gate=f"{_D}.mlp.gate_proj",
                    up=f"{_D}.mlp.up_proj",
                    down=f"{_D}.mlp.down_proj",
                ),
            ),
            prefix="model.",
            ignorable=(r"rotary_emb\.inv_freq$",),
            copies={"lm_head.weight": "model.embed_tokens.weight"},
        ),
        # Of experts, which no layer has; and a number of layers that Transformers does not load.
        ignored=frozenset(
            """n_group topk_group topk_method n_routed_experts n_shared_experts norm_topk_prob
            num_experts_per_tok moe_intermediate_size moe_layer_freq routed_scaling_factor
            scoring_func seq_aux aux_loss_alpha ep_size output_router_logits num_local_experts
            num_nextn_predict_layers num_mtp_layers""".split()
        ),
        task_classes=decoder_classes(name, answers=None),
    )


DEEPSEEK_V2 = _deepseek(
    "deepseek_v2",
    "DeepseekV2",
    0,
    Renamed("mlp_bias", "mlp_bias", bool, False),
    constant(rope_interleaved=True),
)
DEEPSEEK_V3 = _deepseek(
    "deepseek_v3",
    "DeepseekV3",
    3,
    Renamed("rope_interleaved", "rope_interleave", bool, True),
)
