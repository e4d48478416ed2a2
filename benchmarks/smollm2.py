"""SmolLM2-135M from its GGUF file: bits per byte beside Transformers, on the same windows.

Command: python -m benchmarks.smollm2 [TEXT ...]

Scores the first 100,000 characters of each file, and of Python's language reference, in windows of
1,024 tokens: every token is predicted once, from those before it in its window (and the last one of
the window before). Bits per byte are over the text's UTF-8 bytes. Both sides compute in float32.
Ten minutes for two texts on two cores that others use too. Prints a table, and JSON last. Needs the
extras `samples` and `dev`. Expected: 1.627 on tiny Shakespeare, 0.889 on the reference (of Python
3.11), both sides equal to five decimals.
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
"""Inputs and targets [L] to the nats of each target."""


def windows(ids: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs and targets of every window."""
    tokens = np.array(ids, np.int32)
    for start in range(0, len(tokens) - 1, WINDOW):
        part = tokens[start : start + WINDOW + 1]
        yield part[:-1], part[1:]


def ours(lm: llmjax.LanguageModel) -> Score:
    """llmjax; a short last window is padded, so that one program serves all."""
    run = jax.jit(lambda params, batch: token_nll(lm.model, params, batch))

    def score(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        room = [(0, WINDOW - len(inputs))]
        real = np.pad(np.ones_like(inputs), room)
        rows = {"inputs": np.pad(inputs, room), "targets": np.pad(targets, room)}
        rows |= {"segments": real, "positions": np.arange(WINDOW), "weights": real}
        batch = {name: jnp.asarray(row)[None] for name, row in rows.items()}
        return np.asarray(run(lm.params, batch))[0, : len(inputs)]

    return score


def theirs(path: Path) -> Score:
    """Transformers' reading of the same file."""
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
        wanted = torch.tensor(targets, dtype=torch.long)
        return torch.nn.functional.cross_entropy(logits, wanted, reduction="none").numpy()

    return score


def bits_per_byte(score: Score, ids: list[int], text: str) -> tuple[float, float]:
    """Of a text, and the seconds that it took."""
    start, nats = time.perf_counter(), 0.0
    for inputs, targets in windows(ids):
        nats += float(score(inputs, targets).astype(np.float64).sum())
    return nats / math.log(2) / len(text.encode()), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="*", type=Path, help="files to score")
    given = parser.parse_args()
    texts = {path.stem: path.read_text(encoding="utf-8") for path in given.texts}
    texts["python reference"] = "\n".join(topics.values())
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = import_model(SAMPLE, Path(folder) / "run")
        print(f"imported in {time.perf_counter() - start:.1f} s", file=sys.stderr)
        lm = llmjax.load(run)
    scores = {"llmjax": ours(lm), "transformers": theirs(open_source(SAMPLE).where)}
    rows = []
    print(f"{'text':<20} {'tokens':>7} {'llmjax':>9} {'transformers':>13} {'difference':>11}")
    for name, whole in texts.items():
        text = whole[:CHARACTERS]
        ids = lm.tokenizer.encode(text)
        found = {side: bits_per_byte(score, ids, text) for side, score in scores.items()}
        row = {"text": name, "tokens": len(ids), "bytes": len(text.encode())}
        row |= {side: bits for side, (bits, _) in found.items()}
        row |= {f"{side}_seconds": round(seconds, 1) for side, (_, seconds) in found.items()}
        rows.append(row)
        ours_, theirs_ = row["llmjax"], row["transformers"]
        print(
            f"{name:<20} {len(ids):>7} {ours_:>9.5f} {theirs_:>13.5f} {ours_ - theirs_:>11.1e}",
            flush=True,
        )
    print(json.dumps({"model": SAMPLE, "window": WINDOW, "texts": rows}))


if __name__ == "__main__":
    main()
