"""The training step compared with a plain PyTorch loop of the same GPT, on a CPU.

Command: make benchmark          (python -m benchmarks.train [--rounds 6])
Both train 13.9M parameters on 16 rows of 256 tokens with clipping and AdamW, with one thread per
core, in float32 and with bfloat16 products; PyTorch with and without torch.compile. They alternate
step by step, so that changes in the machine's speed affect all of them. The ratio compares the
medians of each side's best variant. Model FLOPs are counted as in PaLM (arXiv:2204.02311): 6 per
weight and token, plus full attention even if causal. The peak is that of large bfloat16 products
with float32 accumulation, in JAX or PyTorch, measured in the same run. Prints a table, then JSON.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import torch

from benchmarks.jax_training import JaxTraining, token_rows
from benchmarks.torch_gpt import Shape, make_step
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.flops import flops_per_token
from llmjax.model.model import Model
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.training.processes import keep_freed_memory


def config_of(shape: Shape) -> ModelConfig:
    """Returns the config of `torch_gpt.GPT`."""
    return ModelConfig(
        vocab_size=shape.vocab,
        max_length=shape.length,
        d_model=shape.width,
        num_decoder_layers=shape.layers,
        num_heads=shape.heads,
        activation="gelu_tanh",
        gated=False,
        norm="layernorm",
        positions="learned",
    )


def llmjax_step(shape: Shape, dtype: str) -> Callable[[], float]:
    """Returns a training step on fixed random tokens, as packed rows; it returns the loss."""
    compute = ComputeConfig(dtype="bfloat16" if dtype == "bfloat16" else "float32")
    batch = token_rows(shape.batch, shape.length, shape.vocab)
    training = JaxTraining(Model(config_of(shape), compute), batch, make_mesh(MeshConfig()))

    def step() -> float:
        training.step()
        return training.wait()

    return step


def product_peak(seconds: float = 2.0) -> float:
    """Returns the FLOP/s of the fastest large bfloat16 product, in JAX or PyTorch."""
    n = 2048
    x = jnp.ones((n, n), jnp.bfloat16)
    jax_product = jax.jit(lambda a, b: jnp.dot(a, b, preferred_element_type=jnp.float32))
    y = torch.ones((n, n), dtype=torch.bfloat16)
    best = 0.0
    for product in (lambda: jax_product(x, x).block_until_ready(), lambda: y @ y):
        product()
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            product()
            best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=6, help="timed steps of each")
    rounds = parser.parse_args().rounds
    keep_freed_memory()
    torch.set_num_threads(os.cpu_count() or 1)
    shape = Shape()
    steps = {f"llmjax {dtype}": llmjax_step(shape, dtype) for dtype in ("float32", "bfloat16")}
    for dtype in ("float32", "bfloat16"):
        for compiled in (False, True):
            name = f"PyTorch {dtype}" + (" compiled" if compiled else "")
            steps[name] = make_step(shape, bfloat16=dtype == "bfloat16", compiled=compiled)
    for name, step in steps.items():
        print(f"warming up {name}: loss {step():.3f}, then {step():.3f}", file=sys.stderr)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    report(shape, times, product_peak())


def report(shape: Shape, times: dict[str, list[float]], peak: float) -> None:
    """Prints the table and the JSON line."""
    flops = shape.tokens * flops_per_token(config_of(shape), shape.length)
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    print(f"{'':28}{'tokens/s':>10}{'step, s: median':>17}{'min':>8}{'of peak':>9}")
    for name, seconds in times.items():
        share = flops / median[name] / peak
        rate = shape.tokens / median[name]
        print(f"{name:28}{rate:10,.0f}{median[name]:17.3f}{min(seconds):8.3f}{share:9.1%}")
    llmjax = min(value for name, value in median.items() if name.startswith("llmjax"))
    pytorch = min(value for name, value in median.items() if name.startswith("PyTorch"))
    print(f"peak of bfloat16 products: {peak / 1e9:,.0f} GFLOP/s")
    print(f"llmjax / PyTorch, best of each: {pytorch / llmjax:.2f}")
    result = {
        "tokens_per_second": {name: shape.tokens / value for name, value in median.items()},
        "ratio": pytorch / llmjax,
        "share_of_peak": flops / llmjax / peak,
        "peak_flops_per_second": peak,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
