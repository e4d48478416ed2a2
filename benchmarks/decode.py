"""Greedy decoding by llmjax, Transformers and llama.cpp, with the same weights on the same CPU.

Command: python -m benchmarks.decode RUN [--tokens 256] [--rounds 3]
RUN is the run folder of a decoder, for example from `llmjax import sample:smollm2-135m RUN`. It is
exported, and the others load the exports; llama.cpp where llama-cpp-python is installed. All
continue the same prompts of 16 tokens by a fixed number of tokens, with 1 and 16 rows, in float32
and bfloat16, and llmjax and llama.cpp with 8-bit weights too; the times include the prompts. They
take turns, so that changes in the machine's speed affect all. Transformers is compared by the
medians of each side's best variant, llama.cpp at equal precision. The bound is a step that only
reads the weights once, at the bandwidth of summing a large array with all cores, measured in the
same run. Prints a table, then JSON.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import torch

import llmjax
from benchmarks.decoders import Generate, jax_decoder, prompts, transformers_decoder
from benchmarks.llama import llama_decoder
from llmjax.convert.exporting import export
from llmjax.training.processes import keep_freed_memory

PROMPT = 16
BATCHES = (1, 16)
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Of a weight, by how it is stored. int8 is computed with bfloat16, and llama.cpp's is q8_0."""


def bandwidth(seconds: float = 2.0) -> float:
    """Returns the memory bandwidth in bytes/s: the fastest sum of a quarter gigabyte of float32."""
    array = torch.ones(1 << 26)
    jax_sum, jax_array = jax.jit(jnp.sum), jnp.ones(1 << 26)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        for read in (array.sum, lambda: jax_sum(jax_array).block_until_ready()):
            start = time.perf_counter()
            read()
            best = max(best, array.nbytes / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--tokens", type=int, default=256, help="new tokens per row")
    parser.add_argument("--rounds", type=int, default=3, help="timed calls of each")
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    keep_freed_memory()
    weights = llmjax.load(args.run).model.num_params()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(args.run, folder / "hf")
        for rows in BATCHES:
            calls = {}
            for dtype in BYTES:
                calls |= decoders(args.run, folder, dtype, rows, args.tokens)
            results += measured(calls, rows, args)
    report(results, weights, bandwidth(), args.tokens)


def decoders(
    run: str, folder: Path, dtype: str, rows: int, tokens: int
) -> dict[tuple[str, str], Generate]:
    """What generates with a run, and with its exports in `folder`."""
    if dtype == "int8":
        lm = llmjax.load(run, dtype="bfloat16", quantize="int8")
    else:
        lm = llmjax.load(run, dtype=dtype)
    vocab = lm.tokenizer.vocab_size
    ids = prompts(rows, vocab, PROMPT)
    calls = {("llmjax", dtype): jax_decoder(lm.model, lm.params, ids, tokens, vocab)}
    if dtype != "int8":
        calls["Transformers", dtype] = transformers_decoder(folder / "hf", dtype)(ids, tokens)
    if importlib.util.find_spec("llama_cpp"):
        path = folder / f"{dtype}.gguf"
        if not path.exists():
            export(run, path, to="gguf", dtype="q8_0" if dtype == "int8" else dtype)
        calls["llama.cpp", dtype] = llama_decoder(path, os.cpu_count() or 1)(ids, tokens)
    return calls


def measured(calls: dict, rows: int, args: argparse.Namespace) -> list[dict]:
    """Times each call, after a warm-up."""
    times: dict = {name: [] for name in calls}
    for turn in range(args.rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - start)
        print(f"{rows} rows: round {turn} of {args.rounds}", file=sys.stderr)
    return [
        {"by": by, "dtype": dtype, "rows": rows, "seconds": statistics.median(seconds)}
        for (by, dtype), seconds in times.items()
    ]


def report(results: list[dict], weights: int, bytes_per_second: float, tokens: int) -> None:
    """Prints the table and the JSON line."""
    print(f"{'':14}{'dtype':10}{'rows':>5}{'tokens/s':>10}{'ms a step':>11}{'of bound':>10}")
    for row in results:
        step = row["seconds"] / tokens
        row["tokens_per_second"] = row["rows"] / step
        row["share_of_bound"] = weights * BYTES[row["dtype"]] / bytes_per_second / step
        print(
            f"{row['by']:14}{row['dtype']:10}{row['rows']:5}"
            f"{row['tokens_per_second']:10.1f}{1e3 * step:11.1f}{row['share_of_bound']:10.1%}"
        )
    ratios = {}
    for rows in BATCHES:
        seconds = {(r["by"], r["dtype"]): r["seconds"] for r in results if r["rows"] == rows}
        best = {
            by: min(time for (name, _), time in seconds.items() if name == by)
            for by in ("llmjax", "Transformers")
        }
        ratios[f"Transformers, {rows} rows"] = best["Transformers"] / best["llmjax"]
        for (by, dtype), other in seconds.items():
            if by == "llama.cpp":
                ratios[f"{by}, {dtype}, {rows} rows"] = other / seconds["llmjax", dtype]
    for name, ratio in ratios.items():
        print(f"llmjax / {name}: {ratio:.2f}")
    print(f"memory bandwidth: {bytes_per_second / 1e9:.1f} GB/s")
    print(json.dumps({"results": results, "ratios": ratios, "bandwidth": bytes_per_second}))


if __name__ == "__main__":
    main()
