"""The table and the JSON of a measurement."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import LLMJAX, Part
from benchmarks.gpu.processes import Outcome
from llmjax.model.config import ModelConfig
from llmjax.model.flops import flops_per_token
from llmjax.parallel.chips import Chip

NOT_PACKED = "not packed"


def lines_of(outcomes: Sequence[Outcome], chip: Chip | None) -> list[dict[str, Any]]:
    """A line of the table for each result, and for each part without one.

    Args:
      outcomes: of the parts.
      chip: the device; None: its peaks are not known.
    """
    lines = [line for each in outcomes for line in _lines(each, chip)]
    for line in lines:
        if line["by"] == LLMJAX and line["rate"] is not None:
            line["ratio"] = _ratio(line, lines)
    return lines


def _lines(outcome: Outcome, chip: Chip | None) -> list[dict[str, Any]]:
    part = outcome.part
    lines = [_line(part, row, chip) for row in outcome.rows]
    if outcome.reason is not None:
        empty = {"case": "", "rate": None, "unit": "", "seconds": None, "peak_bytes": None}
        lines.append(_named(part) | empty | {"note": f"n/a: {outcome.reason}"})
    return lines


def _named(part: Part) -> dict[str, Any]:
    return {"part": part.name, "what": part.what, "by": part.by}


def _line(part: Part, row: dict[str, Any], chip: Chip | None) -> dict[str, Any]:
    line = _named(part) | row | {"share": None, "ratio": None}
    if chip is not None and row["shape"] is not None:
        flops = row["rate"] * training_flops(row["shape"])
        line |= {"model_flops_per_second": flops, "share": flops / chip.flops}
    elif chip is not None and row["weight_bytes"] is not None:
        line["share"] = row["weight_bytes"] / row["seconds"] / chip.bandwidth
    if row["shape"] is not None:
        layers, rows, length = (row["shape"][name] for name in ("layers", "rows", "length"))
        line["note"] = f"{layers} layers, {rows} x {length} tokens, {row['note']}"
    return line


def training_flops(shape: dict[str, Any]) -> float:
    """Model FLOPs of a token of a training step, as `llmjax train` counts them."""
    config = ModelConfig(
        vocab_size=shape["vocab"],
        d_model=shape["width"],
        num_decoder_layers=shape["layers"],
        num_heads=shape["heads"],
        num_kv_heads=shape["kv_heads"],
        d_ff=shape["mlp"],
    )
    return flops_per_token(config, shape["length"])


def _ratio(line: dict[str, Any], lines: Sequence[dict[str, Any]]) -> float | None:
    """Our rate divided by the other side's of the same case. Rows that are packed have none of
    their own, and are compared with the other side's that are not."""
    for other in lines:
        same = other["case"] == line["case"] or other["case"] == NOT_PACKED
        if other["by"] != LLMJAX and other["what"] == line["what"] and same and other["rate"]:
            return line["rate"] / other["rate"]
    return None


def table(lines: Sequence[dict[str, Any]]) -> str:
    """For people."""
    rows = [f"{'':44}{'per second':>18}{'step, ms':>10}{'of peak':>9}{'GiB':>7}{'ratio':>7}"]
    for line in lines:
        cells = f"{line['what']:18}{line['by']:14}{line['case']:12}"
        if line["rate"] is None:
            rows.append(f"{cells}  {line['note']}")
            continue
        rate = f"{line['rate']:,.0f} {line['unit']}"
        cells += f"{rate:>18}{1e3 * line['seconds']:>10.1f}"
        cells += _cell(line["share"], "9.1%") + _cell(_gib(line["peak_bytes"]), "7.1f")
        rows.append(f"{cells}{_cell(line['ratio'], '7.2f')}  {line['note']}".rstrip())
    return "\n".join(rows)


def _gib(size: int | None) -> float | None:
    return None if size is None else size / 2**30


def _cell(value: float | None, form: str) -> str:
    width = int(form.partition(".")[0])
    return f"{'n/a':>{width}}" if value is None else f"{value:>{form}}"


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
