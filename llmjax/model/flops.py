"""How much arithmetic a token costs, by one stated accounting."""

from collections.abc import Sequence

from llmjax.model.config import ModelConfig
from llmjax.model.layer_types import LayerType, layer_types


def flops_per_token(
    config: ModelConfig, length: int, *, unembeds: bool = True, through: bool = True
) -> float:
    """Model FLOPs of one token's forward and backward pass, as in PaLM's appendix B.

    6 for each weight that a token is multiplied with (2 forward, 4 backward), the unembedding
    included, looked-up embeddings and biases not; and 12 * heads * head_dim * keys for each
    attention, with no discount for causality. `keys` is `length`, or the window where it is
    shorter. What rematerialisation computes twice counts once. With an encoder, a token of the
    decoder is taken to come with one token of the source.

    Where adapters alone learn, a weight beside them counts 4 (its own gradient is not taken), and
    each of theirs 6.

    Args:
      config: a resolved config.
      length: tokens in a row.
      unembeds: whether tokens are told by the vocabulary; a classifier's head is too small to
        count.
      through: whether gradients go through the model; where only heads on it learn, a weight
        counts 2.
    """
    d, heads, k = config.d_model, config.num_heads, config.head_width
    projections = d * k * (2 * heads + 2 * config.kv_heads)
    encoder, decoder = config.num_encoder_layers, config.num_decoder_layers
    layers = encoder + decoder
    kinds = (*layer_types(config, encoder), *layer_types(config, decoder))
    seen = sum(length if kind.window is None else min(length, kind.window) for kind in kinds)
    crossed = decoder if config.is_encoder_decoder else 0
    mlp = sum(kind.mlp_width for kind in kinds) * d * (3 if config.gated else 2)
    weights = (layers + crossed) * projections + mlp
    if unembeds:
        weights += d * config.vocab_size + d * d * config.unembed_transform
    beside = 6.0 if config.lora is None else 4.0
    each = beside if through else 2.0
    attended = heads * k * (seen + crossed * length)
    passes = 12.0 if through else 4.0
    return each * weights + passes * attended + 6.0 * _adapters(config, kinds, crossed)


def _adapters(config: ModelConfig, kinds: Sequence[LayerType], crossed: int) -> int:
    """Weights of all adapters."""
    if config.lora is None:
        return 0
    d, k = config.d_model, config.head_width
    kv = config.kv_heads * k
    wide = {"query": config.num_heads * k, "key": kv, "value": kv, "out": config.num_heads * k}
    attention = sum(d + wide[name] for name in config.lora.targets if name in wide)
    in_mlp = sum(name not in wide for name in config.lora.targets)
    mlp = in_mlp * sum(d + kind.mlp_width for kind in kinds)
    return config.lora.rank * ((len(kinds) + crossed) * attention + mlp)
