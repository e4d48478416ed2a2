"""Whether tokenizers give the ids that Transformers gives, on lines of real text.

Command: python -m benchmarks.tokenizer_parity --files FILE ... [--folders FOLDER ...]
Each folder holds a published tokenizer: it is imported, and Transformers reads the same files. Two
SentencePiece tokenizers are trained on the lines, exported, read by Transformers and imported back;
so are bytes. Lines come from the files in turn; every tenth one also gets what makes tokenizers
differ: special tokens, emoji, runs of spaces, tabs, U+2581. Counted are lines whose ids differ:
text as text, text with special tokens marked, and the whole with what stands around it. Prints a
table, and JSON last. Needs transformers.
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
    """Lines of a text file; strings of a JSON file."""
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
    """So many lines, from the files in turn."""
    sources = [lines_of(Path(file)) for file in files]
    found: list[str] = []
    while sources and len(found) < count:
        for source in list(sources):
            line = next(source, None)
            if line is None:
                sources.remove(source)
            else:
                found.append(line)
    return found[:count]


def spiced(lines: Sequence[str], names: Sequence[str]) -> list[str]:
    """The lines, every tenth with oddities and special tokens put between its words."""
    chance = random.Random(0)
    found = list(lines)
    for at in range(0, len(found), 10):
        words = found[at].split(" ")
        for _ in range(4):
            words.insert(chance.randrange(len(words) + 1), chance.choice([*ODD, *names]))
        found[at] = " ".join(words)
    return found


def compare(ours: Tokenizer, theirs: Any, lines: Sequence[str]) -> dict[str, float]:
    """Counts of lines that differ, and times in seconds."""
    names = list(ours.special_tokens)[:20]
    texts = spiced(lines, names)
    began = time.perf_counter()
    plain = ours.encode_batch(texts)
    middle = time.perf_counter()
    reference = theirs(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    ended = time.perf_counter()
    marked = [ours.encode_marked(text) for text in texts]
    whole = [ours.wrap(ids)[0] for ids in marked]
    return {
        "lines": len(texts),
        "tokens": sum(map(len, plain)),
        "plain": _differ(plain, reference),
        "marked": _differ(marked, theirs(texts, add_special_tokens=False)["input_ids"]),
        "whole": _differ(whole, theirs(texts)["input_ids"]),
        "seconds": middle - began,
        "their_seconds": ended - middle,
    }


def _differ(ours: Sequence[list[int]], theirs: Sequence[list[int]]) -> int:
    return sum(a != b for a, b in zip(ours, theirs, strict=True))


def trained(lines: Sequence[str], size: int) -> Iterator[tuple[str, Tokenizer]]:
    """Tokenizers of ours."""
    yield "bytes", BytesTokenizer()
    for kind in ("bpe", "unigram"):
        config = SentencePieceConfig(size, kind)  # type: ignore[arg-type]
        yield f"sentencepiece {kind}", SentencePieceTokenizer(train_sentencepiece(config, lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", nargs="+", required=True, help="text files, or JSON")
    parser.add_argument("--folders", nargs="*", default=[], help="published tokenizers")
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--vocab-size", type=int, default=8192, help="of those trained here")
    options = parser.parse_args()
    lines = gather(options.files, options.lines)
    rows = {}
    for folder in options.folders:
        theirs = AutoTokenizer.from_pretrained(folder)
        rows[f"imported {Path(folder).name}"] = compare(import_tokenizer(folder), theirs, lines)
    for name, ours in trained(lines, options.vocab_size):
        with tempfile.TemporaryDirectory() as folder:
            export_tokenizer(ours, Path(folder), max_length=1 << 20)
            theirs = AutoTokenizer.from_pretrained(folder)
            rows[f"exported {name}"] = compare(ours, theirs, lines)
            rows[f"and back {name}"] = compare(import_tokenizer(folder), theirs, lines)
    columns = list(next(iter(rows.values())))
    print(f"{'tokenizer':32}", *(f"{column:>14}" for column in columns))
    for name, row in rows.items():
        print(f"{name:32}", *(f"{row[column]:14,.6g}" for column in columns))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
