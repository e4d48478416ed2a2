"""Greedy decoding of a run's model, beside Transformers on the same weights and the same CPU.

Command: python -m benchmarks.decode RUN [--tokens 256] [--rounds 3]
RUN is a run folder of a decoder, for instance from `llmjax import sample:smollm2-135m RUN`. It is
exported, and Transformers loads the export. Both continue the same prompts of 16 tokens by exactly
so many more, 1 row and 16 rows at a time, in float32 and in bfloat16, prompts included in the time;
they take turns, so that a change in the machine's speed meets all of them. The ratio compares
medians of each side's best. The bound is a step that only reads the weights once, at the bandwidth
of summing a large array with all cores, measured in the same run. Prints a table, and JSON last.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import AutoModelForCausalLM

import llmjax
from llmjax.convert.exporting import export
from llmjax.decoding.config import DecodingConfig
from llmjax.decoding.rows import Request
from llmjax.decoding.steps import generate_tokens
from llmjax.training.processes import keep_freed_memory

PROMPT = 16
BATCHES = (1, 16)
DTYPES = ("float32", "bfloat16")


def prompts(rows: int, vocab: int) -> np.ndarray:
    """[rows, PROMPT] ids, the same at every call."""
    return np.random.default_rng(0).integers(0, vocab, (rows, PROMPT))


def ours(run: str, dtype: str, rows: int, tokens: int) -> Callable[[], None]:
    """Writes `tokens` tokens after each prompt; no token ends a row."""
    lm = llmjax.load(run, dtype=dtype)
    endless = SimpleNamespace(bos_id=0, stop_ids=(), vocab_size=lm.tokenizer.vocab_size)
    given = prompts(rows, lm.tokenizer.vocab_size)
    config = DecodingConfig(max_new_tokens=tokens, temperature=0.0)

    def write() -> None:
        work = [Request(list(map(int, prompt)), tokens) for prompt in given]
        found = list(
            generate_tokens(lm.model, lm.params, work, config, tokenizer=endless)  # type: ignore[arg-type]
        )
        assert sum(part.tokens.shape[1] for part in found) >= tokens

    return write


def theirs(folder: Path, dtype: str, rows: int, tokens: int) -> Callable[[], None]:
    """The same with Transformers' own generate and its cache."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    ids = torch.from_numpy(prompts(rows, model.config.vocab_size))

    def write() -> None:
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                pad_token_id=0,
            )
        assert out.shape[1] == PROMPT + tokens

    return write


def bandwidth(seconds: float = 2.0) -> float:
    """Bytes a second of reading memory: the best sum of a quarter of a gigabyte of float32."""
    array = torch.ones(1 << 26)
    total = jax.jit(jnp.sum)
    mine = jnp.ones(1 << 26)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        for read in (array.sum, lambda: total(mine).block_until_ready()):
            start = time.perf_counter()
            read()
            best = max(best, array.nbytes / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--tokens", type=int, default=256, help="new tokens of each row")
    parser.add_argument("--rounds", type=int, default=3, help="counted calls of each")
    given = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    keep_freed_memory()
    weights = llmjax.load(given.run).model.num_params()
    results = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "export"
        export(given.run, folder)
        for rows in BATCHES:
            calls = {}
            for dtype in DTYPES:
                calls["llmjax", dtype] = ours(given.run, dtype, rows, given.tokens)
                calls["Transformers", dtype] = theirs(folder, dtype, rows, given.tokens)
            results += measured(calls, rows, given)
    report(results, weights, bandwidth(), given.tokens)


def measured(calls: dict, rows: int, given: argparse.Namespace) -> list[dict]:
    """Seconds of each call, after one that does not count."""
    times: dict = {name: [] for name in calls}
    for turn in range(given.rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - start)
        print(f"{rows} rows: round {turn} of {given.rounds}", file=sys.stderr)
    return [
        {"by": by, "dtype": dtype, "rows": rows, "seconds": statistics.median(each)}
        for (by, dtype), each in times.items()
    ]


def report(results: list[dict], weights: int, bytes_per_second: float, tokens: int) -> None:
    """Prints the table and the JSON line."""
    print(f"{'':14}{'dtype':10}{'rows':>5}{'tokens/s':>10}{'ms a step':>11}{'of bound':>10}")
    for each in results:
        width = 4 if each["dtype"] == "float32" else 2
        step = each["seconds"] / tokens
        each["tokens_per_second"] = each["rows"] / step
        each["share_of_bound"] = weights * width / bytes_per_second / step
        print(
            f"{each['by']:14}{each['dtype']:10}{each['rows']:5}"
            f"{each['tokens_per_second']:10.1f}{1e3 * step:11.1f}{each['share_of_bound']:10.1%}"
        )
    ratios = {}
    for rows in BATCHES:
        best = {
            by: min(r["seconds"] for r in results if r["by"] == by and r["rows"] == rows)
            for by in ("llmjax", "Transformers")
        }
        ratios[rows] = best["Transformers"] / best["llmjax"]
        print(f"llmjax / Transformers, best of each, {rows} rows: {ratios[rows]:.2f}")
    print(f"memory bandwidth: {bytes_per_second / 1e9:.1f} GB/s")
    print(json.dumps({"results": results, "ratios": ratios, "bandwidth": bytes_per_second}))


if __name__ == "__main__":
    main()
