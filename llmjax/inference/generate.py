"""The verb `generate`: text from prompts, written as it comes."""

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from jax.sharding import Mesh

from llmjax.data.text.reading import compressed, decode, read_blocks, split_lines
from llmjax.decoding.completions import Completion, Piece
from llmjax.decoding.config import DecodingConfig, with_fields
from llmjax.errors import UserError
from llmjax.inference.language_model import LanguageModel, load
from llmjax.model.compute import Dtype
from llmjax.parallel.mesh import MeshConfig
from llmjax.storage.json_documents import RECORD, parse_json

MAX_TEXTS = 10_000_000
"""Lines of a file of prompts at most."""


def generate(
    run: str | Path | LanguageModel,
    prompts: str | Sequence[str] = (),
    config: DecodingConfig | None = None,
    *,
    file: str | Path | None = None,
    step: int | None = None,
    dtype: Dtype | None = None,
    mesh: Mesh | MeshConfig | None = None,
    out: TextIO | None = None,
    **fields: Any,
) -> list[Completion]:
    """Continues prompts.

    Args:
      run: a run folder, or a model in hand (then step, dtype and mesh are its own).
      prompts: one or more; with none here nor in `file`, a text from nothing.
      config: how; None for the defaults.
      file: more prompts, see read_prompts.
      step: which checkpoint; None for the newest complete one.
      dtype: what is computed in; None: as trained.
      mesh: the devices to use; None for one device.
      out: where to write prompts and text, as they come and in their order; None: nowhere.
      **fields: fields of DecodingConfig, over those of `config`.

    Returns:
      Completions in the order of the prompts, samples of a prompt side by side.

    Raises:
      UserError: no such run, step or file; a prompt is longer than the context; a field is unknown
        or out of range.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    texts += read_prompts(file) if file is not None else []
    texts = texts or [""]
    lm = run if isinstance(run, LanguageModel) else load(run, step=step, dtype=dtype, mesh=mesh)
    decoding = with_fields(config or DecodingConfig(), fields)
    pieces = lm.stream(texts, decoding)
    if out is not None:
        pieces = write(pieces, texts, decoding.samples, out)
    done = {piece.row: piece.completion for piece in pieces if piece.completion is not None}
    return [done[row] for row in sorted(done)]


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
    found = list[str]()
    for number, (at, line) in enumerate(split_lines(blocks, path), 1):
        text = decode(path, at, line, "strict").rstrip("\r\n")
        if text.strip():
            if len(found) == MAX_TEXTS:
                reason = f"holds more than {MAX_TEXTS:,} lines, and all are read at once"
                raise UserError(path, reason, "split it into several files")
            as_json = form.suffix == ".jsonl"
            found.append(_json_text(f"{path}:{number}", text, field) if as_json else text)
    if not found:
        raise UserError(path, f"holds no {field}", "write one on each line")
    return found


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
