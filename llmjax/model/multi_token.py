"""Multi-token prediction (DeepSeek-V3, arXiv:2412.19437, section 2.2), for training only."""

from dataclasses import replace

import jax
from flax import nnx

from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.layers import Aux, Dense, Norm
from llmjax.model.self_attention import BlockContext
from llmjax.model.transformer import Stack
from llmjax.parallel import mesh


class MultiTokenModule(nnx.Module):
    """A layer that predicts the token after next.

    Its input at a token is a projection of the decoder's output there and of the embedding of the
    next token, each normalized (equation 21); embedding and LM head are the model's.
    """

    def __init__(self, config: ModelConfig, compute: ComputeConfig, *, rngs: nnx.Rngs):
        d, sizes = config.d_model, {"std": compute.init_std, "precision": compute.precision}

        def half() -> Dense:
            return Dense((d, d), ("embed", None), bias=False, rngs=rngs, **sizes)

        self.hidden_norm, self.token_norm = Norm(config, d), Norm(config, d)
        self.from_hidden, self.from_token = half(), half()
        plain = replace(config, lora=None)  # adapters are of what inference uses
        self.stack = Stack(plain, compute, layers=1, cross=False, rngs=rngs)

    def __call__(
        self, hidden: jax.Array, token: jax.Array, context: BlockContext, key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        """The decoder's output and embeddings of next tokens, [B, L, D] each, both split like the
        residual stream -> the input of the LM head before its own scale [B, L, D], and sums."""
        sharding = context.sharding
        normed = self.hidden_norm(hidden), self.token_norm(token)
        gathered = (mesh.reshard(x, *sharding.gathered()) for x in normed)
        parts = zip((self.from_hidden, self.from_token), gathered, strict=True)
        x = sum(project(part, sharding.stream()) for project, part in parts)
        x, _, aux = self.stack(x, context, None, key)
        return x, aux
