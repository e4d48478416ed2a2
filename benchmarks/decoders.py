"""Greedy generation by llmjax and by Transformers, of prompts of random tokens."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from llmjax.model.model import Model
    from llmjax.model.params import Params

Generate = Callable[[], np.ndarray]
"""Generates: int [rows, tokens]."""


def prompts(rows: int, vocab: int, length: int) -> np.ndarray:
    """Returns [rows, length] ids, the same for every call."""
    return np.random.default_rng(0).integers(0, vocab, (rows, length))


def jax_decoder(
    model: "Model", params: "Params", prompt_ids: np.ndarray, tokens: int, vocab: int
) -> Generate:
    """Returns a function that generates `tokens` tokens per prompt; no token ends a row."""
    from llmjax.decoding.config import DecodingConfig
    from llmjax.decoding.rows import Request
    from llmjax.decoding.steps import generate_tokens

    endless = SimpleNamespace(bos_id=0, stop_ids=(), vocab_size=vocab)
    config = DecodingConfig(max_new_tokens=tokens, temperature=0.0)

    def generate() -> np.ndarray:
        batch = [Request(list(map(int, prompt)), tokens) for prompt in prompt_ids]
        parts = generate_tokens(model, params, batch, config, tokenizer=endless)  # type: ignore[arg-type]
        out = np.concatenate([part.tokens for part in parts], 1)[:, :tokens]
        assert out.shape == (len(prompt_ids), tokens)
        return out

    return generate


def transformers_decoder(
    folder: Path, dtype: str, device: str = "cpu"
) -> Callable[[np.ndarray, int], Generate]:
    """Loads a model of Transformers.

    Returns:
      (prompts, tokens) -> what generates that many tokens with Transformers' generate and its
      cache.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model = model.eval().to(device)

    def decoder(prompt_ids: np.ndarray, tokens: int) -> Generate:
        ids = torch.from_numpy(prompt_ids).to(device)

        def generate() -> np.ndarray:
            with torch.no_grad():
                out = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    min_new_tokens=tokens,
                    max_new_tokens=tokens,
                    pad_token_id=0,
                )
            new = out[:, ids.shape[1] :].cpu().numpy()
            assert new.shape == (len(prompt_ids), tokens)
            return new

        return generate

    return decoder
