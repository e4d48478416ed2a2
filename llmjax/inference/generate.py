"""The command `generate`: streamed text generation from prompts."""

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TextIO, cast

from llmjax.data.text.reading import compressed, decode, read_blocks, split_lines
from llmjax.decoding.completions import Completion, Piece
from llmjax.decoding.config import DecodingConfig
from llmjax.errors import UserError
from llmjax.inference.language_model import LanguageModel, LoadOptions, in_order, loaded
from llmjax.run.config.options import keyword_options
from llmjax.storage.json_documents import RECORD, parse_json
from llmjax.storage.stores.path import location

MAX_TEXTS = 10_000_000
"""Maximum lines of a file of prompts."""


@dataclass(frozen=True)
class GenerateOptions(DecodingConfig, LoadOptions):
    """Options of generate."""

    prompt: tuple[str, ...] = ()
    """A prompt; repeat it for more. Without any, start from an empty text."""
    file: str | None = None
    """More prompts, one per line; - for standard input; .jsonl for multi-line prompts, as JSON
    strings or objects with "prompt"."""


@keyword_options("prompt")
def generate(
    run: str | PathLike[str] | LanguageModel, options: GenerateOptions, *, out: TextIO | None = None
) -> list[Completion]:
    """Continue prompts.

    Args:
      run: a run folder, or a loaded model.
      options: fields of GenerateOptions, also as keywords.
      out: stream for prompts and text, written in order as they are generated; None: nowhere.

    Returns:
      Completions in the order of the prompts, a prompt's samples consecutively.

    Raises:
      UserError: no such run, step or file; a prompt exceeds the context; a field is unknown or out
        of range.
    """
    file_prompts = [] if options.file is None else read_prompts(options.file)
    prompts = [*options.prompt, *file_prompts] or [""]
    pieces: Iterable[Piece] = loaded(run, options).stream(prompts, options)
    if out is not None:
        pieces = write(pieces, prompts, options.samples, out)
    return in_order(pieces)


def read_prompts(file: str | Path, field: str = "prompt") -> list[str]:
    r"""Read prompts (or other texts) from a file: one per line, empty lines skipped.

    A line of a .jsonl file is a JSON string, or an object whose `field` is one; prompts with line
    breaks need this form.

    Args:
      file: its path; "-" for standard input.
      field: the key in objects, and the name in messages.

    Raises:
      UserError: the file is missing, has no prompt, or has a line that cannot be read.
    """
    path = location(file)
    blocks = _standard_input() if str(file) == "-" else read_blocks(path)
    plain_path = Path(path.stem) if compressed(path) else path
    texts = list[str]()
    for number, (offset, line) in enumerate(split_lines(blocks, path), 1):
        text = decode(path, offset, line, "strict").rstrip("\r\n")
        if text.strip():
            if len(texts) == MAX_TEXTS:
                reason = f"has more than {MAX_TEXTS:,} lines, and all are read at once"
                raise UserError(path, reason, "split it into several files")
            as_json = plain_path.suffix == ".jsonl"
            texts.append(_json_text(f"{path}:{number}", text, field) if as_json else text)
    if not texts:
        raise UserError(path, f"contains no {field}", "write one per line")
    return texts


def _standard_input() -> Iterator[bytes]:
    stream = cast(io.BufferedReader, sys.stdin.buffer)
    while block := stream.read1():
        yield block


def _json_text(where: str, line: str, field: str) -> str:
    value = parse_json(line, where, limits=RECORD, unique=True, fix="fix the line")
    text = value.get(field) if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise UserError(where, f"contains no {field}", f'write a string, or {{"{field}": "..."}}')
    return text


def write(
    pieces: Iterable[Piece], prompts: Sequence[str], samples: int, out: TextIO
) -> Iterator[Piece]:
    """Write completions in order, the current one as it is generated; pass the pieces on.

    If there are several, a header line numbers each.
    """
    count, current = len(prompts) * samples, 0
    pending: dict[int, str] = {}
    ended: set[int] = set()

    def head(row: int) -> str:
        name = f"{row // samples + 1}" + (f".{row % samples + 1}" if samples > 1 else "")
        return (f"[{name}] " if count > 1 else "") + prompts[row // samples]

    out.write(head(0))
    for piece in pieces:
        pending[piece.row] = pending.get(piece.row, "") + piece.text
        if piece.completion is not None:
            ended.add(piece.row)
        out.write(pending.pop(current, ""))
        while current in ended:
            current += 1
            is_last = current == count
            out.write("\n" if is_last else "\n\n" + head(current) + pending.pop(current, ""))
        out.flush()
        yield piece
