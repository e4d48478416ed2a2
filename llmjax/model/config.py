"""The architecture as data: one Transformer, of which every family is a value."""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["gelu", "gelu_tanh", "silu", "relu"]
AttentionBackend = Literal["auto", "reference", "blocked", "cudnn", "splash"]
Dtype = Literal["float32", "bfloat16"]
Norm = Literal["layernorm", "rmsnorm"]
NormPlacement = Literal["pre", "post"]
Positions = Literal["learned", "sinusoidal", "rotary", "none"]
Remat = Literal["none", "attention", "dots", "full"]


@dataclass(frozen=True)
class ModelConfig:
    """A Transformer with an encoder, a decoder or both (Vaswani et al. 2017, arXiv:1706.03762)."""

    vocab_size: int = 0
    """Rows of the embedding; 0 takes the tokenizer's size, rounded up to a multiple of 128."""
    max_length: int = 1024
    """Longest row; the size of the table where positions are learned."""
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
    activation: Activation = "silu"
    """Nonlinearity of the MLP."""
    gated: bool = True
    """Whether the MLP multiplies by a second projection (GLU variants, arXiv:2002.05202)."""
    norm: Norm = "rmsnorm"
    """LayerNorm (arXiv:1607.06450) or RMSNorm (arXiv:1910.07467)."""
    norm_placement: NormPlacement = "pre"
    """Before each block, with one more at the end of the stack, or after the residual sum."""
    norm_epsilon: float = 1e-6
    """Added to the variance."""
    norm_bias: bool = False
    """Whether LayerNorm has a bias."""
    positions: Positions = "rotary"
    """How a token knows its place; rotary as in arXiv:2104.09864."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    qkv_bias: bool = False
    """Biases of the query, key and value projections."""
    attention_out_bias: bool = False
    """Bias of the attention's output projection."""
    mlp_bias: bool = False
    """Biases of the MLP."""
    unembed_bias: bool = False
    """Bias of the logits."""
    qk_norm: bool = False
    """RMSNorm over each head's query and key (arXiv:2302.05442)."""
    window: int | None = None
    """A token sees at most this many tokens, itself included; None for all before it."""
    tie_embeddings: bool = True
    """Whether the logits use the transposed embedding."""
    embed_scale: bool = False
    """Whether embeddings are multiplied by sqrt(d_model)."""
    embed_norm: bool = False
    """Whether the embedding sum is normalised before the first layer (BERT)."""
    attention_softcap: float | None = None
    """Attention scores s become cap * tanh(s / cap) (arXiv:2408.00118)."""
    logit_softcap: float | None = None
    """Logits z become cap * tanh(z / cap)."""
    dropout: float = 0.0
    """Share of activations dropped on embeddings, attention and MLP outputs in training."""
    init_std: float = 0.02
    """Standard deviation of initial weights; projections into the residual stream are divided by
    sqrt(2 x layers) (GPT-2)."""
    compute_dtype: Dtype = "float32"
    """Operands of products and activations; sums, norms, softmax and loss stay float32."""
    remat: Remat = "none"
    """What the backward pass recomputes: nothing, attention, all but matrix products, all."""
    attention: AttentionBackend = "auto"
    """auto: cuDNN flash on NVIDIA, splash on TPU, else blocked on long rows and reference."""
