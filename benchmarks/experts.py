"""What mixtures of experts cost beside dense models of the same active size, on this machine.

Command: python -m benchmarks.experts [--rounds 6]
The gradient of a model's loss on 8 rows of 256 tokens, with 8 experts of which each token uses 2 of
half the dense model's MLP width; and grouped products of 4,096 rows beside a dense one of as many
multiplications. The two sides of a ratio take turns. Prints medians of the ratios, then JSON.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.losses.token_loss import token_loss
from llmjax.model.compute import ComputeConfig, Dtype
from llmjax.model.config import ModelConfig
from llmjax.model.grouped import grouped_dot, grouped_outer
from llmjax.model.model import Model
from llmjax.model.moe_config import MoEConfig

DENSE = ModelConfig(vocab_size=512, d_model=256, num_decoder_layers=2, num_heads=4, d_ff=1024)
SPARSE = replace(DENSE, moe=MoEConfig(num_experts=8, experts_per_token=2, expert_width=512))
ROWS, INNER, OUTER, GROUPS = 4096, 256, 512, 16


def ratio(ours: Callable[[], object], dense: Callable[[], object], rounds: int) -> float:
    """Median of the seconds of one over those of the other."""

    def seconds(run: Callable[[], object]) -> float:
        began = time.perf_counter()
        jax.block_until_ready(run())
        return time.perf_counter() - began

    for run in (ours, dense):
        seconds(run)  # compiles
    return statistics.median(seconds(ours) / seconds(dense) for _ in range(rounds))


def training(dtype: Dtype, rounds: int) -> float:
    """Loss and gradient of the sparse model over those of the dense one."""
    tokens = jax.random.randint(jax.random.key(0), (8, 257), 0, DENSE.vocab_size)
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": jnp.ones((8, 256))}
    runs = []
    for config in (SPARSE, DENSE):
        model = Model(config, ComputeConfig(dtype=dtype))
        params = jax.jit(model.init)(jax.random.key(0))
        gradient = jax.jit(
            jax.grad(lambda params, model=model: token_loss(model, params, batch).objective)
        )
        runs.append(lambda gradient=gradient, params=params: gradient(params))
    return ratio(runs[0], runs[1], rounds)


def products(dtype: Dtype, rounds: int) -> dict[str, float]:
    """Grouped products over a dense one."""
    draw = np.random.default_rng(0)
    sizes = jnp.asarray(draw.multinomial(ROWS, draw.dirichlet(np.ones(GROUPS) * 3)), jnp.int32)
    x, w, y = (
        jnp.asarray(draw.standard_normal(shape), dtype)
        for shape in ((ROWS, INNER), (GROUPS, INNER, OUTER), (ROWS, OUTER))
    )
    dense = jax.jit(lambda x, w: jnp.dot(x, w, preferred_element_type=jnp.float32))
    dot, outer = jax.jit(grouped_dot), jax.jit(grouped_outer)
    return {
        "forward": ratio(lambda: dot(x, w, sizes), lambda: dense(x, w[0]), rounds),
        "weight gradient": ratio(lambda: outer(x, y, sizes), lambda: dense(x, w[0]), rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    rounds = parser.parse_args().rounds
    ratios: dict[str, float] = {}
    for dtype in ("float32", "bfloat16"):
        ratios[f"training, {dtype}"] = training(dtype, rounds)
        for name, value in products(dtype, rounds).items():
            ratios[f"{name}, {dtype}"] = value
    for name, value in ratios.items():
        print(f"{name:26} {value:6.2f}")
    line = {
        "benchmark": "experts",
        "over_dense": {name: round(value, 3) for name, value in ratios.items()},
        "device": jax.devices()[0].device_kind,
        "cpus": os.cpu_count(),
        "python": sys.version.split()[0],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
