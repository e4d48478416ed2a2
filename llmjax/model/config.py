"""The architecture's config; every model family is a value of it.

How a model is computed is in `llmjax.model.compute.ComputeConfig`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from llmjax.model.latent import LatentConfig
from llmjax.model.linear import LinearConfig
from llmjax.model.lora import LoraConfig
from llmjax.model.moe_config import MoEConfig
from llmjax.model.rope import RopeScaling, Unscaled

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"]
Norm = Literal["layernorm", "rmsnorm"]
NormPlacement = Literal["pre", "post", "output", "sandwich"]
Positions = Literal["learned", "sinusoidal", "rotary", "relative", "none"]
QkNormOver = Literal["head", "projection", "heads", "rotated"]


@dataclass(frozen=True)
class ModelConfig:
    """A Transformer with an encoder, a decoder or both (Vaswani et al. 2017, arXiv:1706.03762).

    These fields decide which parameters a checkpoint holds and what function they define.
    """

    vocab_size: int = 0
    """Rows of the embedding; 0 takes the tokenizer's size, rounded up to a multiple of 128."""
    max_length: int = 1024
    """Longest row of the model; the size of the table of learned positions."""
    d_model: int = 768
    """Width of the residual stream."""
    num_encoder_layers: int = 0
    """Bidirectional layers (0: no encoder)."""
    num_decoder_layers: int = 12
    """Causal layers (0: no decoder), with cross-attention if there is an encoder."""
    num_heads: int = 12
    """Query heads."""
    num_kv_heads: int | None = None
    """Key and value heads: as many as queries (None), fewer (GQA) or one (MQA)."""
    head_dim: int | None = None
    """Width of a head; None: d_model / num_heads."""
    d_ff: int | None = None
    """Inner width of the MLP; None: 4 d_model, or if gated 8/3 d_model rounded up to 64."""
    layer_d_ff: tuple[int, ...] = ()
    """Inner width of each layer's MLP, from the first layer; empty: the same in all."""
    activation: Activation = "silu"
    """Nonlinearity of the MLP."""
    gated: bool = True
    """Whether the MLP multiplies by a second projection (GLU variants, arXiv:2002.05202)."""
    norm: Norm = "rmsnorm"
    """LayerNorm (arXiv:1607.06450) or RMSNorm (arXiv:1910.07467)."""
    norm_placement: NormPlacement = "pre"
    """Around a block f: x + f(norm(x)) (pre), norm(x + f(x)) (post), x + norm(f(x)) (output) or x +
    norm(f(norm(x))) (sandwich). All but post add a final norm to the stack."""
    first_norm: bool = True
    """Whether the first layer has a norm before its attention; off if embeddings are normalized."""
    norm_epsilon: float = 1e-6
    """Added to the variance."""
    norm_bias: bool = False
    """Whether LayerNorm has a bias."""
    norm_unit_offset: bool = False
    """Whether norms multiply by 1 + scale instead of scale (Gemma)."""
    parallel_residual: bool = False
    """Whether attention and MLP read the same input, and both are added to it (GPT-NeoX)."""
    shared_norm: bool = False
    """With parallel_residual: whether both read the output of the attention's norm (Command R)."""
    residual_multiplier: float = 1.0
    """Multiplies what attention and MLP add to the residual stream (Granite)."""
    positions: Positions = "rotary"
    """Position encoding: rotary as in arXiv:2104.09864; relative as in T5 (arXiv:1910.10683), a
    learned bias per head and distance, added to the scores."""
    first_position: int = 0
    """Row of the learned table for position 0 (RoBERTa: 2)."""
    token_types: int = 0
    """Number of token types with learned embeddings (BERT: 2)."""
    relative_buckets: int = 32
    """Distance buckets of relative positions."""
    relative_max_distance: int = 128
    """Distance from which all share the last bucket."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    window_rope_theta: float | None = None
    """Base, unscaled, in layers with a window; None: as in the others."""
    rope_scaling: RopeScaling = field(default_factory=Unscaled)
    """How frequencies are scaled for texts longer than the original training length."""
    rotary_fraction: float = 1.0
    """Fraction of a head's dimensions that are rotated: the first ones."""
    rope_interleaved: bool = False
    """Whether a pair is two neighbouring dimensions, instead of one of each half (GPT-J)."""
    unrotated_layers: tuple[int, ...] = ()
    """Layers without rotary positions, counted from 0 (arXiv:2501.18795)."""
    mla: LatentConfig | None = None
    """Multi-head latent attention: sizes of its projections; None: plain projections."""
    linear: LinearConfig | None = None
    """Linear attention in all layers but those it lists (hybrid models); None: in none."""
    attention_gate: bool = False
    """Whether a projection of attention's input, through a sigmoid, multiplies its output before
    the output projection (Qwen3-Next; arXiv:2505.06708)."""
    qkv_bias: bool = False
    """Biases of the query, key and value projections, and of attention's gate; in latent attention,
    of those down."""
    attention_out_bias: bool = False
    """Bias of the attention's output projection."""
    activation_limit: float | None = None
    """The MLP's nonlinearity gets values of at most this, and if gated, up ones from minus this to
    this (gpt-oss: 7)."""
    up_offset: float = 0.0
    """Added to up where it multiplies the gate (gpt-oss: 1)."""
    mlp_bias: bool = False
    """Biases of the MLP."""
    moe: MoEConfig | None = None
    """A mixture of experts in place of the MLP of some or all layers; None: no experts."""
    lm_head_bias: bool = False
    """Bias of the logits."""
    qk_norm: bool = False
    """Norm of queries and keys (arXiv:2302.05442)."""
    qk_norm_kind: Norm = "rmsnorm"
    """Of queries and keys."""
    qk_norm_over: QkNormOver = "head"
    """What that normalizes: each head, with the same scales (head) or its own (heads, Command R+),
    the whole projection (projection, OLMo 2), or each head after its rotation, without scales and
    only in layers that rotate (rotated, Llama 4)."""
    attention_sinks: bool = False
    """Whether each head's softmax has a learned score besides those of keys, which takes a share of
    the sum but has no value (gpt-oss; arXiv:2309.17453)."""
    attention_scale: float | None = None
    """Multiplies the scores; None: 1 / sqrt(head_dim)."""
    query_growth: float = 0.0
    """In layers without rotary positions, the query at position p is multiplied by 1 + this x ln(1
    + floor((p + 1) / query_growth_length)), so that attention to long texts stays as sharp (Llama
    4; arXiv:2501.19399). 0: it is not."""
    query_growth_length: int = 8192
    """Positions from one such factor to the next."""
    window: int | None = None
    """A token attends to this many tokens back, including itself; in an encoder as many ahead."""
    window_chunks: bool = False
    """Whether windows are chunks instead: the texts are cut into pieces of `window` positions, and
    a token attends to those of its own piece (Llama 4)."""
    global_layers: tuple[int, ...] = ()
    """Layers without the window, counted from 0."""
    tie_embeddings: bool = True
    """Whether the logits use the transposed embedding."""
    embed_scale: bool = False
    """Whether embeddings are multiplied by sqrt(d_model)."""
    embed_multiplier: float = 1.0
    """Multiplies the embeddings (Granite)."""
    embed_norm: bool = False
    """Whether the embedding sum is normalized before the first layer (BERT)."""
    attention_softcap: float | None = None
    """Attention scores s become cap * tanh(s / cap) (arXiv:2408.00118)."""
    logit_scale: float = 1.0
    """Multiplies the last hidden state before the logits (T5: 1 / sqrt(d_model))."""
    logit_softcap: float | None = None
    """Logits z become cap * tanh(z / cap)."""
    lm_head_transform: bool = False
    """Whether a projection, the activation and a norm precede the logits (BERT)."""
    pooler: bool = False
    """Whether classifiers use the first token's state after a projection and tanh (BERT)."""
    multi_token: bool = False
    """Whether a further layer predicts the token after next in training (DeepSeek-V3); the weight
    of its loss is loss.multi_token_weight. Inference does not use it."""
    multi_token_experts: bool = False
    """Whether that layer has experts as the model's other layers, as in published files, instead of
    a dense MLP."""
    lora: LoraConfig | None = None
    """Low-rank adapters of the projections, trained instead of the model; None: no adapters."""

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_width(self) -> int:
        """Width of a head's queries and keys."""
        if self.mla is not None:
            return self.mla.head_width
        return self.d_model // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def value_width(self) -> int:
        """Width of a head's values."""
        return self.head_width if self.mla is None else self.mla.value_head_dim

    @property
    def compresses_queries(self) -> bool:
        """Whether latent attention projects queries from a compressed vector."""
        return self.mla is not None and self.mla.query_rank is not None

    @property
    def cache_width(self) -> int:
        """Numbers in a decoder's cache of each token and layer."""
        if self.mla is not None:
            return self.mla.cache_width
        return self.kv_heads * (self.head_width + self.value_width)

    @property
    def linear_layers(self) -> tuple[int, ...]:
        """The decoder's layers with linear attention."""
        if self.linear is None:
            return ()
        others = self.linear.attention_layers
        return tuple(layer for layer in range(self.num_decoder_layers) if layer not in others)

    @property
    def mlp_width(self) -> int:
        """Inner width of the MLP."""
        if self.d_ff is not None:
            return self.d_ff
        return -(-8 * self.d_model // 192) * 64 if self.gated else 4 * self.d_model

    @property
    def rotated_width(self) -> int:
        """Number of rotated dimensions of a head."""
        if self.mla is not None:
            return self.mla.rope_head_dim
        return int(self.head_width * self.rotary_fraction)

    @property
    def expert_width(self) -> int:
        """Inner width of an expert; 0 without experts."""
        return 0 if self.moe is None else self.moe.expert_width or self.mlp_width

    @property
    def bias_update_rate(self) -> float:
        """How much a step changes the selection biases of experts."""
        return 0.0 if self.moe is None else self.moe.bias_update_rate

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the decoder attends to an encoder."""
        return self.num_encoder_layers > 0 and self.num_decoder_layers > 0


def choice_problems(config: Any) -> Iterator[str]:
    """Yields a line for each Literal field of a dataclass that is not one of its choices."""
    for name, hint in get_type_hints(type(config)).items():
        choices = get_args(hint) if "Literal" in str(hint) else ()
        if choices and getattr(config, name) not in choices:
            yield f"{name} must be one of {', '.join(choices)}, not {getattr(config, name)!r}"
