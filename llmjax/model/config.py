"""The architecture as data: one Transformer, of which every family is a value.

How it is computed is `llmjax.model.compute.ComputeConfig`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from llmjax.model.lora import LoraConfig
from llmjax.model.rope import RopeScaling, Unscaled

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"]
Norm = Literal["layernorm", "rmsnorm"]
NormPlacement = Literal["pre", "post", "output", "sandwich"]
Positions = Literal["learned", "sinusoidal", "rotary", "relative", "none"]
QkNormOver = Literal["head", "projection"]


@dataclass(frozen=True)
class ModelConfig:
    """A Transformer with an encoder, a decoder or both (Vaswani et al. 2017, arXiv:1706.03762).

    These fields decide which parameters a checkpoint holds and what function they stand for.
    """

    vocab_size: int = 0
    """Rows of the embedding; 0 takes the tokenizer's size, rounded up to a multiple of 128."""
    max_length: int = 1024
    """Longest row that the model is made for; the size of the table of learned positions."""
    d_model: int = 768
    """Width of the residual stream."""
    num_encoder_layers: int = 0
    """Bidirectional layers (0: no encoder)."""
    num_decoder_layers: int = 12
    """Causal layers (0: no decoder); they attend to the encoder where there is one."""
    num_heads: int = 12
    """Query heads."""
    num_kv_heads: int | None = None
    """Key and value heads: as many as queries (None), fewer (GQA) or one (MQA)."""
    head_dim: int | None = None
    """Width of a head; None for d_model / num_heads."""
    d_ff: int | None = None
    """Inner width of the MLP; None for 4 d_model, or 8/3 d_model rounded up to 64 where gated."""
    layer_d_ff: tuple[int, ...] = ()
    """Inner width of each layer's MLP, the first layer first; empty: the same in all."""
    activation: Activation = "silu"
    """Nonlinearity of the MLP."""
    gated: bool = True
    """Whether the MLP multiplies by a second projection (GLU variants, arXiv:2002.05202)."""
    norm: Norm = "rmsnorm"
    """LayerNorm (arXiv:1607.06450) or RMSNorm (arXiv:1910.07467)."""
    norm_placement: NormPlacement = "pre"
    """Of a block f: x + f(norm(x)) (pre), norm(x + f(x)) (post), x + norm(f(x)) (output) or x +
    norm(f(norm(x))) (sandwich). All but post have one more at the end of the stack."""
    first_norm: bool = True
    """Whether the first layer normalises before its attention; no where embeddings are already."""
    norm_epsilon: float = 1e-6
    """Added to the variance."""
    norm_bias: bool = False
    """Whether LayerNorm has a bias."""
    norm_unit_offset: bool = False
    """Whether a norm multiplies by 1 + scale instead of scale (Gemma)."""
    parallel_residual: bool = False
    """Whether attention and MLP read the same x, and both are added to it (GPT-NeoX)."""
    positions: Positions = "rotary"
    """How a token knows its place; rotary as in arXiv:2104.09864, relative as in T5
    (arXiv:1910.10683): a learned number for each head and distance, added to the scores."""
    first_position: int = 0
    """Row of the learned table that stands for position 0 (RoBERTa: 2)."""
    token_types: int = 0
    """Kinds of segment that have an embedding of their own (BERT: 2)."""
    relative_buckets: int = 32
    """Classes of distance that relative positions distinguish."""
    relative_max_distance: int = 128
    """Distance from which all are of one class."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    window_rope_theta: float | None = None
    """Base, unscaled, in the layers that have a window; None: as in the others."""
    rope_scaling: RopeScaling = field(default_factory=Unscaled)
    """How frequencies are changed for texts longer than those of the first training."""
    rotary_fraction: float = 1.0
    """Share of a head's dimensions that are rotated: the first ones."""
    unrotated_layers: tuple[int, ...] = ()
    """Layers without rotary positions, counted from 0 (arXiv:2501.18795)."""
    qkv_bias: bool = False
    """Biases of the query, key and value projections."""
    attention_out_bias: bool = False
    """Bias of the attention's output projection."""
    mlp_bias: bool = False
    """Biases of the MLP."""
    unembed_bias: bool = False
    """Bias of the logits."""
    qk_norm: bool = False
    """RMSNorm of queries and keys (arXiv:2302.05442)."""
    qk_norm_over: QkNormOver = "head"
    """Whether that is taken over each head or over all of a projection (OLMo 2)."""
    attention_scale: float | None = None
    """Multiplies the scores; None for 1 / sqrt(head_dim)."""
    window: int | None = None
    """A token sees at most this many tokens back, itself included; in an encoder as many ahead."""
    global_layers: tuple[int, ...] = ()
    """Layers without the window, counted from 0."""
    tie_embeddings: bool = True
    """Whether the logits use the transposed embedding."""
    embed_scale: bool = False
    """Whether embeddings are multiplied by sqrt(d_model)."""
    embed_norm: bool = False
    """Whether the embedding sum is normalised before the first layer (BERT)."""
    attention_softcap: float | None = None
    """Attention scores s become cap * tanh(s / cap) (arXiv:2408.00118)."""
    logit_scale: float = 1.0
    """Multiplies the last hidden state before the logits (T5: 1 / sqrt(d_model))."""
    logit_softcap: float | None = None
    """Logits z become cap * tanh(z / cap)."""
    unembed_transform: bool = False
    """Whether a projection, the activation and a norm stand before the logits (BERT)."""
    pooler: bool = False
    """Whether the first token's state is projected and bent by tanh for classifiers (BERT)."""
    lora: LoraConfig | None = None
    """Low-rank adapters beside the projections, which alone are then trained; None: no adapters."""

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.d_model // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def mlp_width(self) -> int:
        """Inner width of the MLP."""
        if self.d_ff is not None:
            return self.d_ff
        return -(-8 * self.d_model // 192) * 64 if self.gated else 4 * self.d_model

    @property
    def rotated_width(self) -> int:
        """How many dimensions of a head are rotated."""
        return int(self.head_width * self.rotary_fraction)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the decoder attends to an encoder."""
        return self.num_encoder_layers > 0 and self.num_decoder_layers > 0


def choice_problems(config: Any) -> Iterator[str]:
    """Yields the fields of a dataclass that are none of the words that they may be."""
    for name, hint in get_type_hints(type(config)).items():
        choices = get_args(hint) if "Literal" in str(hint) else ()
        if choices and getattr(config, name) not in choices:
            yield f"{name} must be one of {', '.join(choices)}, not {getattr(config, name)!r}"
