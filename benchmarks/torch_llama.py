"""A plain, competent Llama in PyTorch, for comparison.

Weights are float32, products bfloat16; attention is PyTorch's fused one. Blocks, which are alike,
are compiled one by one, and so is the loss, as torchtitan does.
"""

import contextlib
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from benchmarks.gpu.shapes import EPSILON, ROPE_THETA, Shape
from benchmarks.torch_training import TorchTraining

FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]
"""Between which PyTorch chooses on a GPU; others keep [length, length] scores, or are slower."""
KEPT = [
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
]
"""What a recomputed block keeps, besides its input: the output of attention."""


class Linear(nn.Linear):
    """A projection without bias, in the dtype of its input."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """A root-mean-square norm, computed in float32."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON)
        return (wide * scale * self.weight).to(x.dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embeddings of [batch, heads, length, width]; cos and sin are [length, width / 2]."""
    first, second = x.float().chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


class Block(nn.Module):
    """Causal grouped-query attention and a gated MLP, pre-norm."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        kv = shape.kv_heads * shape.head_width
        self.attention_norm = RMSNorm(shape.width)
        self.query, self.key = Linear(shape.width, shape.width), Linear(shape.width, kv)
        self.value, self.out = Linear(shape.width, kv), Linear(shape.width, shape.width)
        self.mlp_norm = RMSNorm(shape.width)
        self.gate, self.up = Linear(shape.width, shape.mlp), Linear(shape.width, shape.mlp)
        self.down = Linear(shape.mlp, shape.width)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        if self.shape.remat != "full":
            return self.layer(x, cos, sin)
        keep = partial(create_selective_checkpoint_contexts, KEPT)
        return checkpoint(self.layer, x, cos, sin, use_reentrant=False, context_fn=keep)

    def layer(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        normed = self.attention_norm(x)

        def heads(projection: Linear) -> torch.Tensor:
            return projection(normed).view(batch, length, -1, self.shape.head_width).transpose(1, 2)

        q, k = rotate(heads(self.query), cos, sin), rotate(heads(self.key), cos, sin)
        mixed = F.scaled_dot_product_attention(
            q, k, heads(self.value), is_causal=True, enable_gqa=True
        )
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        normed = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


class Llama(nn.Module):
    """A Llama; maps tokens and targets to the mean cross-entropy."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.tokens = nn.Embedding(shape.vocab, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width)
        self.head = Linear(shape.width, shape.vocab)
        if shape.tied:
            self.head.weight = self.tokens.weight
        half = shape.head_width // 2
        rates = ROPE_THETA ** -(torch.arange(half, dtype=torch.float32) / half)
        angles = torch.arange(shape.length, dtype=torch.float32)[:, None] * rates
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def compile_parts(self, backend: str) -> None:
        """Compiles a block, which serves all, and the loss."""
        for block in self.blocks:
            block.compile(backend=backend)
        self.loss = torch.compile(self.loss, backend=backend)

    def loss(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.norm(x)).float()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.tokens(inputs).to(torch.bfloat16)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.loss(x, targets)


def llama_training(shape: Shape, device: str, backend: str) -> TorchTraining:
    """Training of a Llama in bfloat16.

    Args:
      shape: of the model and its rows.
      device: "cpu" or "cuda".
      backend: of torch.compile.
    """
    torch.manual_seed(0)
    with torch.device(device):
        model = Llama(shape)
    model.compile_parts(backend)

    def forward(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(FUSED) if device == "cuda" else contextlib.nullcontext():
            return model(inputs, targets)

    return TorchTraining(model, forward, shape.rows, shape.length, shape.vocab, device)
