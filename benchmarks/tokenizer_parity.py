"""Compares token ids with those of Transformers, on lines of real text.

Command: python -m benchmarks.tokenizer_parity --files FILE ... [--folders FOLDER ...]
Each folder has a published tokenizer, which is imported; Transformers loads the same files. Two
SentencePiece tokenizers are trained on the lines, exported, loaded by Transformers and imported
again; so is the bytes tokenizer. Lines come from the files in turn; every tenth one also gets text
on which tokenizers often differ: special tokens, emoji, runs of spaces, tabs, U+2581. Counts lines
whose ids differ: as plain text, with special tokens parsed, and with tokens added around a text.
Prints a table, then JSON. Needs transformers.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from llmjax.convert.hf.tokenizer import export_tokenizer
from llmjax.data.tokenizers.config import SentencePieceConfig
from llmjax.data.tokenizers.huggingface.importing import import_tokenizer
from llmjax.data.tokenizers.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer

ODD = [
    "  ",
    "    ",
    "\t",
    " \n\n ",
    "🙂👩‍👩‍👧",
    "\u2581",
    "\u00a0",
    "e\u0301",
    "<0x41>",
    "\u200b",
    "ﬁ",
    "x" * 99,
]


def lines_of(path: Path) -> Iterator[str]:
    """Yields the lines of a text file, or the strings of a JSON file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        yield from _strings(json.loads(text))
    else:
        yield from (line for line in text.split("\n") if line.strip())


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def gather(files: Sequence[str], count: int) -> list[str]:
    """Returns up to `count` lines, from the files in turn."""
    sources = [lines_of(Path(file)) for file in files]
    lines: list[str] = []
    while sources and len(lines) < count:
        for source in list(sources):
            line = next(source, None)
            if line is None:
                sources.remove(source)
            else:
                lines.append(line)
    return lines[:count]


def perturbed(lines: Sequence[str], names: Sequence[str]) -> list[str]:
    """Inserts odd strings and special tokens between the words of every tenth line."""
    rng = random.Random(0)
    texts = list(lines)
    for index in range(0, len(texts), 10):
        words = texts[index].split(" ")
        for _ in range(4):
            words.insert(rng.randrange(len(words) + 1), rng.choice([*ODD, *names]))
        texts[index] = " ".join(words)
    return texts


def compare(tokenizer: Tokenizer, reference: Any, lines: Sequence[str]) -> dict[str, float]:
    """Counts lines that differ, and measures times in seconds."""
    names = list(tokenizer.special_tokens)[:20]
    texts = perturbed(lines, names)
    began = time.perf_counter()
    plain = tokenizer.encode_batch(texts)
    middle = time.perf_counter()
    expected = reference(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    ended = time.perf_counter()
    marked = [tokenizer.encode_marked(text) for text in texts]
    wrapped = [tokenizer.wrap(ids)[0] for ids in marked]
    return {
        "lines": len(texts),
        "tokens": sum(map(len, plain)),
        "plain": _differ(plain, expected),
        "marked": _differ(marked, reference(texts, add_special_tokens=False)["input_ids"]),
        "wrapped": _differ(wrapped, reference(texts)["input_ids"]),
        "seconds": middle - began,
        "reference_seconds": ended - middle,
    }


def _differ(rows: Sequence[list[int]], expected: Sequence[list[int]]) -> int:
    return sum(a != b for a, b in zip(rows, expected, strict=True))


def trained(lines: Sequence[str], size: int) -> Iterator[tuple[str, Tokenizer]]:
    """Yields tokenizers trained on the lines."""
    yield "bytes", BytesTokenizer()
    for kind in ("bpe", "unigram"):
        config = SentencePieceConfig(size, kind)  # type: ignore[arg-type]
        yield f"sentencepiece {kind}", SentencePieceTokenizer(train_sentencepiece(config, lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", nargs="+", required=True, help="text files, or JSON")
    parser.add_argument("--folders", nargs="*", default=[], help="published tokenizers")
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--vocab-size", type=int, default=8192, help="of the trained tokenizers")
    options = parser.parse_args()
    lines = gather(options.files, options.lines)
    rows = {}
    for folder in options.folders:
        reference = AutoTokenizer.from_pretrained(folder)
        rows[f"imported {Path(folder).name}"] = compare(import_tokenizer(folder), reference, lines)
    for name, tokenizer in trained(lines, options.vocab_size):
        with tempfile.TemporaryDirectory() as folder:
            export_tokenizer(tokenizer, Path(folder), max_length=1 << 20)
            reference = AutoTokenizer.from_pretrained(folder)
            rows[f"exported {name}"] = compare(tokenizer, reference, lines)
            rows[f"reimported {name}"] = compare(import_tokenizer(folder), reference, lines)
    columns = list(next(iter(rows.values())))
    print(f"{'tokenizer':32}", *(f"{column:>14}" for column in columns))
    for name, row in rows.items():
        print(f"{name:32}", *(f"{row[column]:14,.6g}" for column in columns))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
