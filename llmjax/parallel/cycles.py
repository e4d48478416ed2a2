"""Cycles and attention kernels of a program that a TPU compiler made."""

import re

from llmjax.parallel.hlo import Program

_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_TARGET = re.compile(r'custom_call_target="tpu_custom_call"')


def estimated_cycles(program: Program) -> int:
    """Cycles of one run, as the compiler estimates them; its kernels count 0."""
    return sum(
        int(found[1]) * each.times
        for each in program.executed()
        if not each.fused and (found := _CYCLES.search(each.instruction.text))
    )


def splash_products(program: Program) -> int:
    """Products of the scores' size that the splash attention kernels of one run compute.

    Forward 2; the gradient of queries 3; that of keys and values 4, or 5 with that of queries.
    """
    runs: dict[str, int] = {}
    for each in program.executed():
        instruction = each.instruction
        if instruction.opcode == "custom-call" and _TARGET.search(instruction.text):
            kernel = next((k for k in ("dkv", "dq", "fwd") if k in instruction.name), "")
            if "splash" in instruction.name and kernel:
                runs[kernel] = runs.get(kernel, 0) + each.times
    backward = 4 if "dq" in runs else 5
    return 2 * runs.get("fwd", 0) + 3 * runs.get("dq", 0) + backward * runs.get("dkv", 0)
