"""Cycles and attention kernels of a program that a TPU compiler made."""

import re
from collections import Counter

from llmjax.parallel.hlo import Program

_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_FLOPS = re.compile(r'"cost_estimate":\{"flops":"(\d+)"')
_TARGET = re.compile(r'custom_call_target="tpu_custom_call"')

GROUPED = ("ragged-dot", "tgmm")
"""How the names of grouped products' kernels begin."""


def estimated_cycles(program: Program) -> int:
    """Cycles of one run, as the compiler estimates them; kernels count 0."""
    return sum(
        int(found[1]) * each.times
        for each in program.executed()
        if not each.fused and (found := _CYCLES.search(each.instruction.text))
    )


def splash_runs(program: Program) -> Counter[str]:
    """How often one run of a program runs each splash attention kernel: "fwd", forward; "dkv", the
    gradients of keys and values; and "dq", that of queries, where "dkv" does not compute it too."""
    runs = Counter[str]()
    for each in program.executed():
        instruction = each.instruction
        if instruction.opcode == "custom-call" and _TARGET.search(instruction.text):
            kernel = next((k for k in ("dkv", "dq", "fwd") if k in instruction.name), "")
            if "splash" in instruction.name and kernel:
                runs[kernel] += each.times
    return runs


def splash_products(program: Program) -> int:
    """Products of the scores' size that the splash attention kernels of one run compute.

    Forward 2; the gradient of queries 3; that of keys and values 4, or 5 with that of queries.
    """
    runs = splash_runs(program)
    return 2 * runs["fwd"] + 3 * runs["dq"] + (4 if runs["dq"] else 5) * runs["dkv"]


def grouped_flops(program: Program) -> int:
    """FLOPs of the kernels of grouped products (`llmjax.model.grouped`) in one run, for all rows of
    their buffers."""
    total = 0
    for each in program.executed():
        text, name = each.instruction.text, each.instruction.name
        if _TARGET.search(text) and name.startswith(GROUPED) and (found := _FLOPS.search(text)):
            total += int(found[1]) * each.times
    return total
