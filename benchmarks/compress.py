"""What an archive comes to: ratio, speed both ways, agreement with the scores of its windows.

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


def measured(run: str, path: Path, given: argparse.Namespace, flops: float) -> dict:
    """One file, there and back."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        archive, out = Path(place) / "archive", Path(place) / "out"
        there = compress(
            run,
            path,
            archive,
            streams=given.streams,
            dtype=given.dtype,
            verify=False,
            compare=False,
            fallback=False,
        )
        back = decompress(run, archive, out)
        assert out.read_bytes() == path.read_bytes()
    found = there.to_dict()
    found["processor_seconds_both_ways"] = time.process_time() - began
    found["source"] = path.name
    found["decompress_kilobytes_per_second"] = there.bytes / 1e3 / back.seconds
    alone = back.seconds - back.compile_seconds
    found["decompress_kilobytes_per_second_compiled"] = there.bytes / 1e3 / alone
    lm = llmjax.load(run, dtype=given.dtype)
    work = 2 * lm.model.num_params() * there.costs.tokens
    found["share_of_peak"] = work / (there.seconds - there.compile_seconds) / flops
    if given.score and there.bytes <= FRAME:  # in larger ones each frame starts new streams
        shape = StreamLayout(there.streams, there.context, there.stride)
        found["scored_bits_per_byte"] = scored(lm, path.read_bytes(), shape)
        body = 8 * (there.archive_bytes - there.header_bytes - TAIL_BYTES) / there.bytes
        found["body_over_scored"] = body / found["scored_bits_per_byte"] - 1
    return found


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
    given = parser.parse_args()
    enable_compilation_cache()
    flops, results = peak(given.dtype), []
    with tempfile.TemporaryDirectory() as place:
        files = list(given.files)
        if given.shuffled:
            files += [shuffled(path, Path(place)) for path in given.files]
        cases = [("", given.run, path) for path in files]
        if given.untrained:
            other = untrained(given.run, Path(place) / "untrained")
            cases += [("untrained", other, path) for path in given.files]
        print(f"{'':30}{'bytes':>10}{'archive':>10}{'bpb':>8}{'KB/s':>8}{'back':>8}{'of peak':>9}")
        for name, run, path in cases:
            one = measured(run, path, given, flops) | {"model": name}
            results.append(one)
            print(
                f"{path.name + ' ' + name:30}{one['bytes']:10,}{one['archive_bytes']:10,}"
                f"{one['bits_per_byte']:8.3f}{one['kilobytes_per_second_compiled']:8.2f}"
                f"{one['decompress_kilobytes_per_second_compiled']:8.2f}{one['share_of_peak']:9.1%}",
                flush=True,
            )
    print(json.dumps({"results": results, "peak_flops": flops, "environment": environment()}))


if __name__ == "__main__":
    main()
