"""The command `generate`: text from prompts, written as it comes."""

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

from llmjax.data.text.reading import compressed, decode, read_blocks, split_lines
from llmjax.decoding.completions import Completion, Piece
from llmjax.decoding.config import DecodingConfig
from llmjax.errors import UserError
from llmjax.inference.language_model import LanguageModel, LoadOptions, in_order, loaded
from llmjax.run.config.options import keyword_options
from llmjax.storage.json_documents import RECORD, parse_json

MAX_TEXTS = 10_000_000
"""Lines of a file of prompts at most."""


@dataclass(frozen=True)
class GenerateOptions(DecodingConfig, LoadOptions):
    """Options of generate."""

    prompt: tuple[str, ...] = ()
    """What to continue; repeat it for more. Without any, a text from nothing."""
    file: str | None = None
    """More prompts, one a line; - for standard input; .jsonl for prompts of several lines, as JSON
    strings or objects with "prompt"."""


@keyword_options("prompt")
def generate(
    run: str | Path | LanguageModel, options: GenerateOptions, *, out: TextIO | None = None
) -> list[Completion]:
    """Continues prompts.

    Args:
      run: a run folder, or a loaded model.
      options: fields of GenerateOptions, also as keywords.
      out: where to write prompts and text, as they come and in their order; None: nowhere.

    Returns:
      Completions in the order of the prompts, samples of a prompt side by side.

    Raises:
      UserError: no such run, step or file; a prompt is longer than the context; a field is unknown
        or out of range.
    """
    in_file = [] if options.file is None else read_prompts(options.file)
    prompts = [*options.prompt, *in_file] or [""]
    pieces: Iterable[Piece] = loaded(run, options).stream(prompts, options)
    if out is not None:
        pieces = write(pieces, prompts, options.samples, out)
    return in_order(pieces)


def read_prompts(file: str | Path, field: str = "prompt") -> list[str]:
    r"""Prompts (or other texts) of a file: one a line, empty lines left out.

    In a .jsonl file a line is a JSON string, or an object whose `field` is one; that is the way to
    spell a prompt of several lines.

    Args:
      file: its path; "-" for standard input.
      field: the name in objects, and in messages.

    Raises:
      UserError: there is no such file, no prompt in it, or a line that cannot be read.
    """
    path = Path(file)
    blocks = _standard_input() if str(file) == "-" else read_blocks(path)
    form = Path(path.stem) if compressed(path) else path
    texts = list[str]()
    for number, (at, line) in enumerate(split_lines(blocks, path), 1):
        text = decode(path, at, line, "strict").rstrip("\r\n")
        if text.strip():
            if len(texts) == MAX_TEXTS:
                reason = f"holds more than {MAX_TEXTS:,} lines, and all are read at once"
                raise UserError(path, reason, "split it into several files")
            as_json = form.suffix == ".jsonl"
            texts.append(_json_text(f"{path}:{number}", text, field) if as_json else text)
    if not texts:
        raise UserError(path, f"holds no {field}", "write one on each line")
    return texts


def _standard_input() -> Iterator[bytes]:
    stream = cast(io.BufferedReader, sys.stdin.buffer)
    while block := stream.read1():
        yield block


def _json_text(where: str, line: str, field: str) -> str:
    value = parse_json(line, where, limits=RECORD, unique=True, fix="fix the line")
    text = value.get(field) if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise UserError(where, f"holds no {field}", f'write a string, or {{"{field}": "..."}}')
    return text


def write(
    pieces: Iterable[Piece], prompts: Sequence[str], samples: int, out: TextIO
) -> Iterator[Piece]:
    """Writes completions in order: one is shown as it comes, later ones wait for their turn.

    Where there are several, each has a line above it that says which it is. Hands the pieces on.
    """
    count, turn = len(prompts) * samples, 0
    waiting: dict[int, str] = {}
    ended: set[int] = set()

    def head(row: int) -> str:
        name = f"{row // samples + 1}" + (f".{row % samples + 1}" if samples > 1 else "")
        return (f"[{name}] " if count > 1 else "") + prompts[row // samples]

    out.write(head(0))
    for piece in pieces:
        waiting[piece.row] = waiting.get(piece.row, "") + piece.text
        if piece.completion is not None:
            ended.add(piece.row)
        out.write(waiting.pop(turn, ""))
        while turn in ended:
            turn += 1
            out.write("\n" if turn == count else "\n\n" + head(turn) + waiting.pop(turn, ""))
        out.flush()
        yield piece
