"""Bits per byte of SmolLM2-135M, from its GGUF file, in llmjax and Transformers.

Command: python -m benchmarks.smollm2 [TEXT ...]

Scores the first 100,000 characters of each file, and of Python's language reference, in windows of
1,024 tokens: every token is predicted once, from the preceding ones of its window (and the last of
the previous one). Bits per byte are relative to UTF-8 bytes. Both sides compute in float32. Takes
ten minutes for two texts on two shared cores. Prints a table, then JSON. Needs the extras
`samples` and `dev`. Expected: 1.627 on tiny Shakespeare, 0.889 on the reference of Python 3.11;
both sides agree to five decimals.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np

import llmjax
from llmjax.convert.importing import import_model
from llmjax.convert.sources import open_source
from llmjax.losses.token_loss import token_nll

SAMPLE = "sample:smollm2-135m"
CHARACTERS, WINDOW = 100_000, 1024
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps inputs and targets [L] to the nats of each target."""


def windows(ids: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields inputs and targets of each window."""
    tokens = np.array(ids, np.int32)
    for start in range(0, len(tokens) - 1, WINDOW):
        part = tokens[start : start + WINDOW + 1]
        yield part[:-1], part[1:]


def llmjax_score(lm: llmjax.LanguageModel) -> Score:
    """Scores with llmjax; pads a short last window, so that all windows run the same program."""
    run = jax.jit(lambda params, batch: token_nll(lm.model, params, batch))

    def score(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        padding = [(0, WINDOW - len(inputs))]
        mask = np.pad(np.ones_like(inputs), padding)
        rows = {"inputs": np.pad(inputs, padding), "targets": np.pad(targets, padding)}
        rows |= {"segments": mask, "positions": np.arange(WINDOW), "weights": mask}
        batch = {name: jnp.asarray(row)[None] for name, row in rows.items()}
        return np.asarray(run(lm.params, batch))[0, : len(inputs)]

    return score


def transformers_score(path: Path) -> Score:
    """Scores with Transformers, which loads the same file."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()

    @torch.inference_mode()
    def score(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        logits = model(torch.tensor(inputs[None], dtype=torch.long)).logits[0]
        labels = torch.tensor(targets, dtype=torch.long)
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none").numpy()

    return score


def bits_per_byte(score: Score, ids: list[int], text: str) -> tuple[float, float]:
    """Returns the bits per byte of a text, and the seconds taken."""
    start, nats = time.perf_counter(), 0.0
    for inputs, targets in windows(ids):
        nats += float(score(inputs, targets).astype(np.float64).sum())
    return nats / math.log(2) / len(text.encode()), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="*", type=Path, help="files to score")
    args = parser.parse_args()
    texts = {path.stem: path.read_text(encoding="utf-8") for path in args.texts}
    texts["python reference"] = "\n".join(topics.values())
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = import_model(SAMPLE, Path(folder) / "run")
        print(f"imported in {time.perf_counter() - start:.1f} s", file=sys.stderr)
        lm = llmjax.load(run)
    scores = {"llmjax": llmjax_score(lm)}
    scores["transformers"] = transformers_score(open_source(SAMPLE).where)
    rows = []
    print(f"{'text':<20} {'tokens':>7} {'llmjax':>9} {'transformers':>13} {'difference':>11}")
    for name, full_text in texts.items():
        text = full_text[:CHARACTERS]
        ids = lm.tokenizer.encode(text)
        results = {side: bits_per_byte(score, ids, text) for side, score in scores.items()}
        row = {"text": name, "tokens": len(ids), "bytes": len(text.encode())}
        row |= {side: bits for side, (bits, _) in results.items()}
        row |= {f"{side}_seconds": round(seconds, 1) for side, (_, seconds) in results.items()}
        rows.append(row)
        bits, reference = row["llmjax"], row["transformers"]
        difference = bits - reference
        print(
            f"{name:<20} {len(ids):>7} {bits:>9.5f} {reference:>13.5f} {difference:>11.1e}",
            flush=True,
        )
    print(json.dumps({"model": SAMPLE, "window": WINDOW, "texts": rows}))


if __name__ == "__main__":
    main()
