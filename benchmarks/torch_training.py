"""PyTorch's side of a comparison: a training step with clipping and fused AdamW."""

from collections.abc import Callable

import torch
from torch import nn

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(inputs, targets) -> the mean cross-entropy."""


class TorchTraining:
    """Training on one batch of random tokens again and again."""

    def __init__(
        self,
        model: nn.Module,
        forward: Forward,
        rows: int,
        length: int,
        vocabulary: int,
        device: str,
    ):
        """Args:
        model: on the device; its parameters are trained.
        forward: the model, as it is compiled or cast.
        rows: of the batch.
        length: of a row.
        vocabulary: tokens are below it.
        device: "cpu" or "cuda".
        """
        self._parameters = list(model.parameters())
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )
        tokens = torch.randint(0, vocabulary, (rows, length + 1), device=device)
        self._inputs, self._targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        self._forward, self._device = forward, device

    def step(self) -> None:
        """Starts a step; on a CPU, takes it."""
        self._loss = self._forward(self._inputs, self._targets)
        self._loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def wait(self) -> float:
        """Waits until all steps are done; returns the loss of the last one."""
        if self._device == "cuda":
            torch.cuda.synchronize()
        return self._loss.item()
