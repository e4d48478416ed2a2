"""How much arithmetic a token costs, by one stated accounting."""

from llmjax.model.config import ModelConfig
from llmjax.model.kinds import kinds_of


def flops_per_token(config: ModelConfig, length: int) -> float:
    """Model FLOPs of one token's forward and backward pass, as in PaLM's appendix B.

    6 for each weight that a token is multiplied with (2 forward, 4 backward), the unembedding
    included, looked-up embeddings and biases not; and 12 * heads * head_dim * keys for each
    attention, with no discount for causality. `keys` is `length`, or the window where it is
    shorter. What rematerialisation computes twice counts once. With an encoder, a token of the
    decoder is taken to come with one token of the source.

    Args:
      config: a resolved config.
      length: tokens in a row.
    """
    d, heads, k = config.d_model, config.num_heads, config.head_width
    projections = d * k * (2 * heads + 2 * config.kv_heads)
    mlp = d * config.mlp_width * (3 if config.gated else 2)
    encoder, decoder = config.num_encoder_layers, config.num_decoder_layers
    layers = encoder + decoder
    kinds = (*kinds_of(config, encoder), *kinds_of(config, decoder))
    seen = sum(length if kind.window is None else min(length, kind.window) for kind in kinds)
    crossed = decoder if config.is_encoder_decoder else 0
    weights = layers * (projections + mlp) + crossed * projections + d * config.vocab_size
    weights += d * d * config.unembed_transform
    return 6.0 * weights + 12.0 * heads * k * (seen + crossed * length)
