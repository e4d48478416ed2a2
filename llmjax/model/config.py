"""The architecture as data: one Transformer, of which every family is a value."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, get_args, get_type_hints

from llmjax.errors import UserError
from llmjax.model.rope import LongRopeScaling, RopeScaling, Unscaled

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"]
AttentionBackend = Literal["auto", "reference", "blocked", "cudnn", "splash"]
Dtype = Literal["float32", "bfloat16"]
Norm = Literal["layernorm", "rmsnorm"]
NormPlacement = Literal["pre", "post", "output", "sandwich"]
Positions = Literal["learned", "sinusoidal", "rotary", "relative", "none"]
QkNormOver = Literal["head", "projection"]
Remat = Literal["none", "attention", "dots", "full"]


@dataclass(frozen=True)
class ModelConfig:
    """A Transformer with an encoder, a decoder or both (Vaswani et al. 2017, arXiv:1706.03762)."""

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
    """Kinds of distance that relative positions tell apart."""
    relative_max_distance: int = 128
    """Distance from which all are one kind."""
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
    dropout: float = 0.0
    """Share of activations dropped on embeddings, attention and MLP outputs in training."""
    init_std: float = 0.02
    """Standard deviation of initial weights; projections into the residual stream are divided by
    sqrt(2 x layers) (GPT-2)."""
    compute_dtype: Dtype = "float32"
    """Operands of products and activations; sums, norms, softmax and loss stay float32."""
    remat: Remat = "none"
    """What the backward pass recomputes: nothing; attention scores; all but the outputs of weight
    products; all. A fused attention's output is kept in every case."""
    attention: AttentionBackend = "auto"
    """auto: cuDNN flash on NVIDIA, splash on TPU, else blocked (written out on CPUs) on long rows
    and reference."""

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


def resolve(config: ModelConfig, tokenizer_vocab_size: int) -> ModelConfig:
    """Fills in the vocabulary's size and refuses what cannot be built.

    Raises:
      UserError: every problem, in one line.
    """
    if config.vocab_size == 0:
        config = replace(config, vocab_size=-(-tokenizer_vocab_size // 128) * 128)
    found = list(problems(config))
    if 0 < config.vocab_size < tokenizer_vocab_size:
        found.append(f"vocab_size {config.vocab_size} < the tokenizer's {tokenizer_vocab_size}")
    if found:
        raise UserError("model", "; ".join(found))
    return config


def problems(config: ModelConfig) -> Iterator[str]:
    """Yields what is wrong with a config, each in a few words."""
    for name, hint in get_type_hints(ModelConfig).items():
        choices = get_args(hint) if "Literal" in str(hint) else ()
        if choices and getattr(config, name) not in choices:
            yield f"{name} must be one of {', '.join(choices)}, not {getattr(config, name)!r}"
    for name in ("vocab_size", "max_length", "d_model", "num_heads"):
        if getattr(config, name) < 1:
            yield f"{name} must be positive, not {getattr(config, name)}"
    for name in ("num_kv_heads", "head_dim", "d_ff", "window"):
        size = getattr(config, name)
        if size is not None and size < 1:
            yield f"{name} must be positive or None, not {size}"
    yield from _layer_problems(config)
    yield from _head_problems(config)
    yield from _number_problems(config)


def _layer_problems(config: ModelConfig) -> Iterator[str]:
    layers = (config.num_encoder_layers, config.num_decoder_layers)
    if min(layers) < 0:
        yield f"layers must not be negative: encoder {layers[0]}, decoder {layers[1]}"
    elif max(layers) == 0:
        yield "no layers: give num_decoder_layers, num_encoder_layers or both"
    for name in ("global_layers", "unrotated_layers"):
        chosen = getattr(config, name)
        if any(not 0 <= layer < max(layers) for layer in chosen):
            yield f"{name} {list(chosen)} are not all among the {max(layers)} layers"
    if config.global_layers and config.window is None:
        yield "global_layers has no meaning without window"
    if config.parallel_residual and (config.norm_placement != "pre" or min(layers) > 0):
        yield "parallel_residual needs norm_placement pre and a single stack"
    if not config.first_norm and config.norm_placement != "pre":
        yield "first_norm false needs norm_placement pre"
    if config.relative_buckets < 4 or config.relative_max_distance <= config.relative_buckets // 2:
        yield "relative_buckets must be at least 4 and below twice relative_max_distance"


def _head_problems(config: ModelConfig) -> Iterator[str]:
    if config.num_heads < 1 or config.kv_heads < 1:
        return
    if config.head_dim is None and config.d_model % config.num_heads:
        yield f"d_model {config.d_model} does not divide into {config.num_heads} heads"
    if config.num_heads % config.kv_heads:
        yield f"num_heads {config.num_heads} is no multiple of num_kv_heads {config.kv_heads}"
    if config.positions == "rotary":
        yield from _rotary_problems(config)
    if config.positions == "sinusoidal" and config.d_model % 2:
        yield f"sinusoidal positions need an even d_model, not {config.d_model}"


def _rotary_problems(config: ModelConfig) -> Iterator[str]:
    width, scaling = config.rotated_width, config.rope_scaling
    if not 0 < config.rotary_fraction <= 1:
        yield f"rotary_fraction must be above 0 and at most 1, not {config.rotary_fraction}"
    elif width % 2 or not width:
        yield f"rotary positions need an even number of dimensions, not {width}"
    elif isinstance(scaling, LongRopeScaling):
        for name in ("short_factors", "long_factors"):
            factors = getattr(scaling, name)
            if len(factors) != width // 2 or min(factors) <= 0:
                yield f"rope_scaling.{name} must be {width // 2} positive numbers"
    if getattr(scaling, "factor", 1.0) <= 0:
        yield f"rope_scaling.factor must be positive, not {getattr(scaling, 'factor', None)}"
    if getattr(scaling, "original_length", 2) < 2:
        yield "rope_scaling.original_length must be at least 2"


def _number_problems(config: ModelConfig) -> Iterator[str]:
    if not 0 <= config.dropout < 1:
        yield f"dropout must be at least 0 and below 1, not {config.dropout}"
    for name in ("norm_epsilon", "rope_theta", "init_std", "logit_scale"):
        if not 0 < getattr(config, name) < float("inf"):
            yield f"{name} must be positive and finite, not {getattr(config, name)}"
    for name in ("attention_softcap", "logit_softcap", "attention_scale", "window_rope_theta"):
        number = getattr(config, name)
        if number is not None and not 0 < number < float("inf"):
            yield f"{name} must be positive and finite or None, not {number}"
    for name in ("first_position", "token_types"):
        if getattr(config, name) < 0:
            yield f"{name} must not be negative, but is {getattr(config, name)}"
    if config.norm_bias and config.norm == "rmsnorm":
        yield "norm_bias needs norm layernorm: RMSNorm has no bias"
