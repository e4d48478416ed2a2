"""Compression: ratio, speed in both directions, agreement with the score of the same windows.

Command: python -m benchmarks.compress RUN FILE [FILE ...] [--streams N] [--dtype bfloat16]
RUN is the run folder of a decoder, for example from `llmjax import sample:smollm2-135m RUN`. Each
file is compressed, decompressed in this process and compared. With --score the same tokens are
scored in the same windows by `llmjax.scoring`, an independent program (up to 1 MiB): apart from
header and checksums, the archive should be within 0.5 % of the score. Speeds are with and without
compilation, and relative to the measured matrix-product peak, at two FLOPs per parameter and token.
With --shuffled each file is also compressed with its characters in random order; with --untrained
also by an untrained model of the same shape. Prints a table, then JSON.
"""

import argparse
import json
import math
import random
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import llmjax
from llmjax.compression.archive import TAIL_BYTES
from llmjax.compression.codec import StreamLayout, allowed_ids
from llmjax.compression.compress import compress
from llmjax.compression.decompress import decompress
from llmjax.compression.fingerprint import environment
from llmjax.compression.frames import FRAME
from llmjax.compression.segments import Segmenter
from llmjax.data.text.corpus import Document
from llmjax.inference.language_model import LanguageModel
from llmjax.parallel.compilation import enable_compilation_cache
from llmjax.run.checkpoint.checkpoints import save_params
from llmjax.run.folder import Run
from llmjax.scoring.documents import score_documents


def peak(dtype: str) -> float:
    """Returns the peak FLOP/s of a few square matrix products."""
    size, best = 2048, 0.0
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32))
    for _ in range(6):
        start = time.perf_counter()
        product(a).block_until_ready()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def scored(lm: LanguageModel, data: bytes, layout: StreamLayout) -> float:
    """Scores the archive's streams in its windows, without EOS; returns bits per byte."""
    segments = Segmenter(lm.tokenizer, allowed_ids(lm)).split(data)
    tokens = np.concatenate([part.tokens for part in segments if part.tokens is not None])
    parts = np.split(tokens, np.cumsum(layout.lengths(len(tokens)))[:-1])
    documents = [Document(part, len(data)) for part in parts if len(part)]
    score = score_documents(
        lm.model,
        lm.params,
        lm.tokenizer,
        documents,
        context=layout.context,
        stride=layout.stride,
        batch_size=4,
    )
    return score.nats / math.log(2) / len(data)


def measured(run: str, path: Path, options: argparse.Namespace, flops: float) -> dict:
    """Compresses and restores one file; returns the measurements."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as temporary:
        archive, out = Path(temporary) / "archive", Path(temporary) / "out"
        compressed = compress(
            run,
            path,
            archive,
            streams=options.streams,
            dtype=options.dtype,
            verify=False,
            compare=False,
            fallback=False,
        )
        restored = decompress(run, archive, out)
        assert out.read_bytes() == path.read_bytes()
    measurements = compressed.to_dict()
    measurements["processor_seconds_both_ways"] = time.process_time() - began
    measurements["source"] = path.name
    measurements["decompress_kilobytes_per_second"] = compressed.bytes / 1e3 / restored.seconds
    coding = restored.seconds - restored.compile_seconds
    measurements["decompress_kilobytes_per_second_compiled"] = compressed.bytes / 1e3 / coding
    lm = llmjax.load(run, dtype=options.dtype)
    work = 2 * lm.model.num_params() * compressed.costs.tokens
    measurements["share_of_peak"] = work / (compressed.seconds - compressed.compile_seconds) / flops
    if options.score and compressed.bytes <= FRAME:  # in larger ones each frame starts new streams
        layout = StreamLayout(compressed.streams, compressed.context, compressed.stride)
        measurements["scored_bits_per_byte"] = scored(lm, path.read_bytes(), layout)
        body = compressed.archive_bytes - compressed.header_bytes - TAIL_BYTES
        measurements["body_over_scored"] = (
            8 * body / compressed.bytes / measurements["scored_bits_per_byte"] - 1
        )
    return measurements


def untrained(run: str, folder: Path) -> str:
    """Writes a run of the same config and tokenizer, with randomly initialized parameters."""
    lm = llmjax.load(run)
    config = Run.open(run).config()
    folder.mkdir()
    (folder / "config.json").write_text(Run.open(run).config_path.read_text())
    lm.tokenizer.save(folder / "tokenizer")
    params = jax.jit(lm.model.init)(jax.random.key(config.seed))
    save_params(folder / "checkpoints", params)
    return str(folder)


def shuffled(path: Path, folder: Path) -> Path:
    """Writes a file with the same characters in random order."""
    letters = list(path.read_text(encoding="utf-8", errors="replace"))
    random.Random(0).shuffle(letters)
    (folder / f"{path.name} shuffled").write_text("".join(letters), encoding="utf-8")
    return folder / f"{path.name} shuffled"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--streams", type=int)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--score", action="store_true", help="score the same windows")
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--untrained", action="store_true")
    options = parser.parse_args()
    enable_compilation_cache()
    flops, results = peak(options.dtype), []
    with tempfile.TemporaryDirectory() as temporary:
        files = list(options.files)
        if options.shuffled:
            files += [shuffled(path, Path(temporary)) for path in options.files]
        cases = [("", options.run, path) for path in files]
        if options.untrained:
            untrained_run = untrained(options.run, Path(temporary) / "untrained")
            cases += [("untrained", untrained_run, path) for path in options.files]
        print(f"{'':30}{'bytes':>10}{'archive':>10}{'bpb':>8}{'KB/s':>8}{'back':>8}{'of peak':>9}")
        for name, run, path in cases:
            row = measured(run, path, options, flops) | {"model": name}
            results.append(row)
            print(
                f"{path.name + ' ' + name:30}{row['bytes']:10,}{row['archive_bytes']:10,}"
                f"{row['bits_per_byte']:8.3f}{row['kilobytes_per_second_compiled']:8.2f}"
                f"{row['decompress_kilobytes_per_second_compiled']:8.2f}{row['share_of_peak']:9.1%}",
                flush=True,
            )
    print(json.dumps({"results": results, "peak_flops": flops, "environment": environment()}))


if __name__ == "__main__":
    main()
