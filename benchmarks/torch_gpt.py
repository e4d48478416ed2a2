"""A plain, competent PyTorch training loop of a small GPT, for comparison."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.torch_training import TorchTraining


@dataclass(frozen=True)
class Shape:
    """The GPT of the benchmark: 13.9M parameters, tied embeddings, no biases."""

    vocab: int = 8192
    length: int = 256
    width: int = 384
    layers: int = 6
    heads: int = 6
    batch: int = 16

    @property
    def tokens(self) -> int:
        """Tokens per step."""
        return self.batch * self.length


class Block(nn.Module):
    """Causal self-attention and a GELU MLP, pre-norm."""

    def __init__(self, shape: Shape):
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        split = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


class GPT(nn.Module):
    """A GPT; maps tokens and targets to the mean cross-entropy."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.tokens = nn.Embedding(shape.vocab, shape.width)
        self.positions = nn.Embedding(shape.length, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def make_step(shape: Shape, *, bfloat16: bool, compiled: bool) -> Callable[[], float]:
    """Returns a training step on fixed random tokens, with clipping and fused AdamW."""
    torch.manual_seed(0)
    model = GPT(shape)
    compiled_model = torch.compile(model) if compiled else model

    def forward(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            return compiled_model(inputs, targets)

    training = TorchTraining(model, forward, shape.batch, shape.length, shape.vocab, "cpu")

    def step() -> float:
        training.step()
        return training.wait()

    return step
