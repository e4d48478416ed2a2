"""Model FLOPs per token."""

from collections.abc import Mapping, Sequence

from llmjax.model.config import ModelConfig
from llmjax.model.layer_types import LayerType, layer_types
from llmjax.model.linear import LinearConfig


def flops_per_token(
    config: ModelConfig, length: int, *, lm_head: bool = True, backward: bool = True
) -> float:
    """Returns the model FLOPs of one token's forward and backward pass (PaLM, appendix B).

    Each weight that multiplies a token counts 6 (2 forward, 4 backward), including the LM head but
    not embedding look-ups and biases. Each attention counts 6 * heads * keys times the widths of a
    head's keys and of its values, with no discount for causality, where `keys` is `length`, or the
    window or chunk if shorter; in latent attention those of expanded heads. Rematerialization does
    not count. An encoder-decoder is assumed to read one source token per target token.

    A layer with linear attention counts, besides its weights, three products of a vector with each
    head's matrix: the recurrence, which chunks compute with more.

    Of a mixture of experts, the router, the shared expert and `experts_per_token` experts count.
    With adapters, weights of the model count 4 (they have no gradient) and those of adapters 6.

    Args:
      config: a resolved config.
      length: tokens per row.
      lm_head: whether there are logits over the vocabulary; a classifier's head does not count.
      backward: whether gradients flow through the model; if only heads are trained, a weight
        counts 2.
    """
    d, heads = config.d_model, config.num_heads
    projections = _weights(attention_projections(config))
    encoder, decoder = config.num_encoder_layers, config.num_decoder_layers
    layers = encoder + decoder
    types = (*layer_types(config, encoder), *layer_types(config, decoder))
    attending = [layer for layer in types if not layer.is_linear]
    linear = layers - len(attending)
    attending += attending[:1] if config.multi_token else []
    keys = sum(length if layer.window is None else min(length, layer.window) for layer in attending)
    crossed = decoder if config.is_encoder_decoder else 0
    mlp = sum(_mlp_weights(config, layer) for layer in types)
    weights = (layers - linear + crossed) * projections + mlp
    if config.linear is not None:
        weights += linear * (_weights(linear_projections(config.linear, d)) + _conv(config.linear))
    if lm_head:
        weights += d * config.vocab_size + d * d * config.lm_head_transform
    if config.multi_token:
        sparse = config.multi_token_experts
        further = types[-1]._replace(is_sparse=sparse, mlp_width=config.mlp_width)
        weights += 2 * d * d + projections + _mlp_weights(config, further)
        weights += d * config.vocab_size if lm_head else 0
    trained = 6.0 if config.lora is None else 4.0
    per_weight = trained if backward else 2.0
    width = config.head_width + config.value_width
    attended = heads * width * (keys + crossed * length)
    if config.linear is not None:
        matrix = config.linear.key_head_dim * config.linear.value_head_dim
        attended += linear * 3 * config.linear.value_heads * matrix
    per_score = 6.0 if backward else 2.0
    adapters = _adapter_weights(config, types, crossed)
    return per_weight * weights + per_score * attended + 6.0 * adapters


def _mlp_weights(config: ModelConfig, layer: LayerType) -> int:
    """Counts the weights of a layer's MLP, or of its experts, that multiply a token."""
    per_width, moe = config.d_model * (3 if config.gated else 2), config.moe
    if moe is None or not layer.is_sparse:
        return per_width * layer.mlp_width
    width = moe.experts_per_token * config.expert_width + moe.shared_width
    return per_width * width + config.d_model * (moe.num_experts + moe.shared_gate)


def attention_projections(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Inner and outer width of each projection of a layer's attention, by name."""
    d, heads, mla = config.d_model, config.num_heads, config.mla
    if mla is None:
        query, kv = heads * config.head_width, config.kv_heads * config.head_width
        gate = {"output_gate": (d, query)} if config.attention_gate else {}
        return {"query": (d, query), "key": (d, kv), "value": (d, kv), "out": (query, d)} | gate
    down = {} if mla.query_rank is None else {"query_down": (d, mla.query_rank)}
    return down | {
        "query": (mla.query_rank or d, heads * mla.head_width),
        "kv_down": (d, mla.kv_rank),
        "key_rope": (d, mla.rope_head_dim),
        "key": (mla.kv_rank, heads * mla.nope_head_dim),
        "value": (mla.kv_rank, heads * mla.value_head_dim),
        "out": (heads * mla.value_head_dim, d),
    }


def linear_projections(linear: LinearConfig, d: int) -> dict[str, tuple[int, int]]:
    """As `attention_projections`, of linear attention in a residual stream of width `d`."""
    keys = linear.key_heads * linear.key_head_dim
    values, heads = linear.key_heads * linear.group_width, linear.value_heads
    widths = {"query": keys, "key": keys, "value": values, "output_gate": values}
    widths |= {"beta": heads, "decay": heads}
    return {name: (d, width) for name, width in widths.items()} | {"out": (values, d)}


def _weights(projections: Mapping[str, tuple[int, int]]) -> int:
    return sum(rows * columns for rows, columns in projections.values())


def _conv(linear: LinearConfig) -> int:
    return linear.key_heads * linear.conv_channels * linear.conv_width


def _adapter_weights(config: ModelConfig, types: Sequence[LayerType], crossed: int) -> int:
    """Counts the weights of all adapters."""
    if config.lora is None:
        return 0
    d, targets, linear = config.d_model, config.lora.targets, len(config.linear_layers)
    widths = attention_projections(config)
    total = (len(types) - linear + crossed) * _adapted(targets, widths)
    if config.linear is not None:
        total += linear * _adapted(targets, linear_projections(config.linear, d))
    in_mlp = sum(name in ("gate", "up", "down") for name in targets)
    return config.lora.rank * (total + in_mlp * sum(_mlp_sides(config, each) for each in types))


def _mlp_sides(config: ModelConfig, layer: LayerType) -> int:
    """Inner plus outer width of a projection of the MLP, or of the experts of a token."""
    d, moe = config.d_model, config.moe
    if moe is None or not layer.is_sparse:
        return d + layer.mlp_width
    shared = d + moe.shared_width if moe.shared_width else 0
    return moe.experts_per_token * (d + config.expert_width) + shared


def _adapted(targets: Sequence[str], widths: Mapping[str, tuple[int, int]]) -> int:
    return sum(sum(widths[name]) for name in targets if name in widths)
