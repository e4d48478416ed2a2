"""Model FLOPs per token."""

from collections.abc import Sequence

from llmjax.model.config import ModelConfig
from llmjax.model.layer_types import LayerType, layer_types


def flops_per_token(
    config: ModelConfig, length: int, *, lm_head: bool = True, backward: bool = True
) -> float:
    """Returns the model FLOPs of one token's forward and backward pass (PaLM, appendix B).

    Each weight that multiplies a token counts 6 (2 forward, 4 backward), including the LM head but
    not embedding look-ups and biases. Each attention counts 12 * heads * head_dim * keys, with no
    discount for causality, where `keys` is `length`, or the window if shorter. Rematerialization
    does not count. An encoder-decoder is assumed to read one source token per target token.

    With adapters, weights of the model count 4 (they have no gradient) and those of adapters 6.

    Args:
      config: a resolved config.
      length: tokens per row.
      lm_head: whether there are logits over the vocabulary; a classifier's head does not count.
      backward: whether gradients flow through the model; if only heads are trained, a weight
        counts 2.
    """
    d, heads, k = config.d_model, config.num_heads, config.head_width
    projections = d * k * (2 * heads + 2 * config.kv_heads)
    encoder, decoder = config.num_encoder_layers, config.num_decoder_layers
    layers = encoder + decoder
    types = (*layer_types(config, encoder), *layer_types(config, decoder))
    keys = sum(length if layer.window is None else min(length, layer.window) for layer in types)
    crossed = decoder if config.is_encoder_decoder else 0
    mlp = sum(layer.mlp_width for layer in types) * d * (3 if config.gated else 2)
    weights = (layers + crossed) * projections + mlp
    if lm_head:
        weights += d * config.vocab_size + d * d * config.lm_head_transform
    trained = 6.0 if config.lora is None else 4.0
    per_weight = trained if backward else 2.0
    attended = heads * k * (keys + crossed * length)
    per_score = 12.0 if backward else 4.0
    adapters = _adapter_weights(config, types, crossed)
    return per_weight * weights + per_score * attended + 6.0 * adapters


def _adapter_weights(config: ModelConfig, types: Sequence[LayerType], crossed: int) -> int:
    """Counts the weights of all adapters."""
    if config.lora is None:
        return 0
    d, k = config.d_model, config.head_width
    kv = config.kv_heads * k
    widths = {"query": config.num_heads * k, "key": kv, "value": kv, "out": config.num_heads * k}
    attention = sum(d + widths[name] for name in config.lora.targets if name in widths)
    in_mlp = sum(name not in widths for name in config.lora.targets)
    mlp = in_mlp * sum(d + layer.mlp_width for layer in types)
    return config.lora.rank * ((len(types) + crossed) * attention + mlp)
