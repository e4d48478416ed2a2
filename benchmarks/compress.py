"""Archives measured: ratio, speed both ways, agreement with the scores of their windows.

Command: python -m benchmarks.compress RUN FILE [FILE ...] [--streams N] [--dtype bfloat16]
RUN is a run folder of a decoder, for instance from `llmjax import sample:smollm2-135m RUN`. Each
file is compressed, decompressed in this process and compared; with --score the same tokens are
scored in the same windows by `llmjax.scoring`, an independent program (up to 1 MiB): the archive
should be within 0.5 % of the score, apart from header and checksums. Speeds are given with and
without compiling, and as the share of the machine's measured matrix-product peak that they reach,
at two FLOPs per parameter and token. With --shuffled each file is also compressed with its
characters in random order; with --untrained by a model of the same shape that was never trained.
Prints a table, JSON last.
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
    """FLOP/s of the best of a few square matrix products."""
    size, best = 2048, 0.0
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32))
    for _ in range(6):
        start = time.perf_counter()
        product(a).block_until_ready()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def scored(lm: LanguageModel, data: bytes, shape: StreamLayout) -> float:
    """Bits per byte of the archive's streams in the archive's windows, without ends of text."""
    segments = Segmenter(lm.tokenizer, allowed_ids(lm)).split(data)
    tokens = np.concatenate([part.tokens for part in segments if part.tokens is not None])
    parts = np.split(tokens, np.cumsum(shape.lengths(len(tokens)))[:-1])
    documents = [Document(part, len(data)) for part in parts if len(part)]
    score = score_documents(
        lm.model,
        lm.params,
        lm.tokenizer,
        documents,
        context=shape.context,
        stride=shape.stride,
        batch_size=4,
    )
    return score.nats / math.log(2) / len(data)


def measured(run: str, path: Path, options: argparse.Namespace, flops: float) -> dict:
    """One file, compressed and restored."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        archive, out = Path(place) / "archive", Path(place) / "out"
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
    figures = compressed.to_dict()
    figures["processor_seconds_both_ways"] = time.process_time() - began
    figures["source"] = path.name
    figures["decompress_kilobytes_per_second"] = compressed.bytes / 1e3 / restored.seconds
    coding = restored.seconds - restored.compile_seconds
    figures["decompress_kilobytes_per_second_compiled"] = compressed.bytes / 1e3 / coding
    lm = llmjax.load(run, dtype=options.dtype)
    work = 2 * lm.model.num_params() * compressed.costs.tokens
    figures["share_of_peak"] = work / (compressed.seconds - compressed.compile_seconds) / flops
    if options.score and compressed.bytes <= FRAME:  # in larger ones each frame starts new streams
        shape = StreamLayout(compressed.streams, compressed.context, compressed.stride)
        figures["scored_bits_per_byte"] = scored(lm, path.read_bytes(), shape)
        body = compressed.archive_bytes - compressed.header_bytes - TAIL_BYTES
        figures["body_over_scored"] = (
            8 * body / compressed.bytes / figures["scored_bits_per_byte"] - 1
        )
    return figures


def untrained(run: str, folder: Path) -> str:
    """A run of the same shape and tokenizer, whose parameters are as they were first drawn."""
    lm = llmjax.load(run)
    config = Run.open(run).config()
    folder.mkdir()
    (folder / "config.json").write_text(Run.open(run).config_path.read_text())
    lm.tokenizer.save(folder / "tokenizer")
    params = jax.jit(lm.model.init)(jax.random.key(config.seed))
    save_params(folder / "checkpoints", params)
    return str(folder)


def shuffled(path: Path, folder: Path) -> Path:
    """The same characters in random order."""
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
    with tempfile.TemporaryDirectory() as place:
        files = list(options.files)
        if options.shuffled:
            files += [shuffled(path, Path(place)) for path in options.files]
        cases = [("", options.run, path) for path in files]
        if options.untrained:
            other = untrained(options.run, Path(place) / "untrained")
            cases += [("untrained", other, path) for path in options.files]
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
