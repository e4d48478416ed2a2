"""What clients of `llmjax serve` see, beside Transformers' `generate`, on the same CPU.

Command: python -m benchmarks.serve RUN [--clients 1,8,32] [--tokens 64] [--rounds 2]
RUN is the run folder of a decoder, for example from `llmjax import sample:smollm2-135m RUN`. Each
client streams one greedy completion at a time, of a prompt of its own, until it had its share of
the requests. Transformers continues the same prompts by as many tokens, one after another, as a
server without batches does, and all at once in one padded batch, as none can that does not know its
requests beforehand. Both are bfloat16 and take turns. Prints medians: tokens per second, seconds to
the first token and between tokens (p50, p99); then the second turn of a conversation, whose start
is in the prefix cache, beside a first of the same length; then JSON.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import numpy as np

PORT = 8179
TEXT = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
PROMPT = 80
"""Characters of a prompt."""
REQUESTS = 2
"""Of each client in a round."""


def prompt(index: int) -> str:
    """The text of a request, which no other begins with."""
    start = 131 * index % (len(TEXT) - PROMPT)
    return TEXT[start : start + PROMPT].replace("\n", " ")


@contextmanager
def server(run: str, rows: int) -> Iterator[str]:
    """`llmjax serve` of a run; yields the address."""
    command = [sys.executable, "-m", "llmjax", "serve", run, "--port", str(PORT)]
    command += ["--dtype", "bfloat16", "--max-rows", str(rows)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    address = f"http://127.0.0.1:{PORT}"
    try:
        for _ in range(600):
            try:
                if httpx.get(f"{address}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(60)


async def completion(client: httpx.AsyncClient, text: str, tokens: int) -> dict[str, Any]:
    """Streams a completion; its number of tokens, and when each piece came, in seconds."""
    body = {
        "model": client.headers["x-model"],
        "prompt": text,
        "max_tokens": tokens,
        "temperature": 0.0,
        "stream": True,
    }
    body["stream_options"] = {"include_usage": True}
    began, pieces, count = time.perf_counter(), [], 0
    async with client.stream("POST", "/v1/completions", json=body, timeout=600) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if event.get("usage"):
                count = event["usage"]["completion_tokens"]
            if event["choices"]:
                pieces.append(time.perf_counter() - began)
    return {"tokens": count, "pieces": pieces}


async def round_of(address: str, model: str, clients: int, tokens: int, first: int) -> dict:
    """What so many clients see at once."""

    async def use(number: int) -> list[dict[str, Any]]:
        headers = {"x-model": model}
        async with httpx.AsyncClient(base_url=address, headers=headers) as client:
            texts = [prompt(first + number * REQUESTS + i) for i in range(REQUESTS)]
            return [await completion(client, text, tokens) for text in texts]

    began = time.perf_counter()
    found = list(chain.from_iterable(await asyncio.gather(*map(use, range(clients)))))
    seconds = time.perf_counter() - began
    starts = [answer["pieces"][0] for answer in found]
    gaps = [
        (answer["pieces"][-1] - answer["pieces"][0]) / max(answer["tokens"] - 1, 1)
        for answer in found
    ]
    return {
        "tokens_per_second": sum(answer["tokens"] for answer in found) / seconds,
        "first": [float(np.quantile(starts, q)) for q in (0.5, 0.99)],
        "between": [float(np.quantile(gaps, q)) for q in (0.5, 0.99)],
    }


class Reference:
    """Transformers with the same weights."""

    def __init__(self, run: str, folder: Path):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from llmjax.convert.exporting import export

        export(run, folder)
        torch.set_num_threads(os.cpu_count() or 1)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.padding_side = "left"
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token

    def tokens_per_second(self, texts: list[str], tokens: int) -> float:
        """Of one call for all texts."""
        import torch

        inputs = self.tokenizer(texts, return_tensors="pt", padding=True)
        began = time.perf_counter()
        with torch.no_grad():
            self.model.generate(
                **inputs, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens
            )
        return len(texts) * tokens / (time.perf_counter() - began)


async def second_turn(address: str, model: str) -> dict[str, float]:
    """Seconds to the first token of a long prompt, and of one that goes on from it."""
    text = TEXT[:2400]
    async with httpx.AsyncClient(base_url=address, headers={"x-model": model}) as client:
        await completion(client, TEXT[5000:7400], 1)  # compiles
        await completion(client, TEXT[5000:7400] + " And", 1)
        new = (await completion(client, text, 1))["pieces"][0]
        again = (await completion(client, text + " And then", 1))["pieces"][0]
    return {"new": new, "again": again}


def main() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    counts = [int(count) for count in args.clients.split(",")]
    model, results = Path(args.run).name, {}
    with tempfile.TemporaryDirectory() as temporary, server(args.run, max(counts)) as address:
        there = Reference(args.run, Path(temporary) / "hf")
        for clients in counts:
            asyncio.run(round_of(address, model, clients, args.tokens, 10_000))  # compiles
            ours, theirs, together = [], [], []
            for number in range(args.rounds):
                first = 1000 * number
                ours.append(asyncio.run(round_of(address, model, clients, args.tokens, first)))
                texts = [prompt(first + index) for index in range(clients)]
                theirs.append(there.tokens_per_second(texts[:1], args.tokens))
                together.append(there.tokens_per_second(texts, args.tokens))
            median = sorted(ours, key=lambda each: each["tokens_per_second"])[len(ours) // 2]
            results[clients] = median | {
                "transformers": statistics.median(theirs),
                "transformers_batch": statistics.median(together),
            }
            print(clients, json.dumps(results[clients]), flush=True)
        results["second_turn"] = asyncio.run(second_turn(address, model))
    print(json.dumps(results))
    return results


if __name__ == "__main__":
    main()
