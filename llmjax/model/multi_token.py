"""Multi-token prediction (DeepSeek-V3, arXiv:2412.19437, section 2.2), for training only."""

from dataclasses import replace

import jax
from flax import nnx

from llmjax.model.aux_sums import Aux
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.layers import Dense, Norm
from llmjax.model.self_attention import BlockContext
from llmjax.model.transformer import Stack
from llmjax.parallel import mesh


class MultiTokenModule(nnx.Module):
    """A layer that predicts the token after next.

    Its input at a token is a projection of the decoder's output there and of the embedding of the
    next token, each normalized (equation 21); embedding and LM head are the model's.
    """

    def __init__(self, config: ModelConfig, compute: ComputeConfig, *, rngs: nnx.Rngs):
        d, std, precision = config.d_model, compute.init_std, compute.precision

        def half() -> Dense:
            axes = ("embed", None)
            return Dense((d, d), axes, bias=False, std=std, precision=precision, rngs=rngs)

        self.hidden_norm, self.token_norm = Norm(config, d), Norm(config, d)
        self.from_hidden, self.from_token = half(), half()
        moe = None
        if config.multi_token_experts and config.moe is not None:
            moe = replace(config.moe, dense_layers=())
        # Adapters are of what inference uses.
        plain = replace(config, lora=None, moe=moe, linear=None, layer_d_ff=())
        self.stack = Stack(plain, compute, layers=1, cross=False, rngs=rngs)

    def __call__(
        self, hidden: jax.Array, token: jax.Array, context: BlockContext, key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        """The decoder's output and embeddings of next tokens, [B, L, D] each, both split like the
        residual stream -> the input of the LM head before its own scale [B, L, D], and sums."""
        sharding = context.sharding
        states, tokens = self.hidden_norm(hidden), self.token_norm(token)
        x = self.from_hidden(mesh.reshard(states, *sharding.gathered()), sharding.stream())
        x += self.from_token(mesh.reshard(tokens, *sharding.gathered()), sharding.stream())
        x, _, aux = self.stack(x, context, None, key)
        return x, aux
