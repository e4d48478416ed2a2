"""The text of a compiled program: its computations, and how often each instruction runs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"^([\w\-]+)\(")
_CALLED = re.compile(r"(?:calls|to_apply|branch_computations)=\{?%?([\w.\-]+)")
_TRIPS = re.compile(r"known_trip_count\D*(\d+)")
_INTEGER = re.compile(r"^[su]32\[\]")
_CONSTANT = re.compile(r"constant\((\d+)\)")


@dataclass(frozen=True)
class Instruction:
    """An instruction of a computation."""

    name: str
    shape: str
    """As HLO writes it, such as bf16[8,128]{1,0}; a tuple in parentheses."""
    opcode: str
    text: str
    """Operands and attributes."""


@dataclass(frozen=True)
class Executed:
    """An instruction as often as it runs."""

    instruction: Instruction
    times: int
    computation: str
    """The computation that has it: a fusion's, or that of a loop's body or the program."""
    scheduled: str
    """The innermost loop's body or the program, whose instructions run one after another."""
    fused: bool
    """Whether it is a part of a fusion or of an asynchronous call, which are timed as a whole."""


class Program:
    """A compiled program."""

    def __init__(self, text: str):
        """Args:
        text: `compiled.as_text()`.
        """
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        current: list[Instruction] | None = None
        for line in text.splitlines():
            if current is None:
                header = _COMPUTATION.match(line)
                if header and not line.startswith("HloModule"):
                    current = self.computations.setdefault(header[2], [])
                    self.entry = header[2] if header[1] else self.entry
            elif line.rstrip() == "}":
                current = None
            elif found := _INSTRUCTION.match(line):
                shape, rest = _split_shape(found[2])
                opcode = _OPCODE.match(rest)
                current.append(Instruction(found[1], shape, opcode[1] if opcode else "", rest))

    def executed(self) -> Iterator[Executed]:
        """All instructions, those of loops as often as they run."""
        yield from self._walk(self.entry, 1, self.entry, False)

    def _walk(self, name: str, times: int, scheduled: str, fused: bool) -> Iterator[Executed]:
        for each in self.computations.get(name, ()):
            yield Executed(each, times, name, scheduled, fused)
            if each.opcode == "while":
                body = _attribute(each, "body")
                yield from self._walk(body, times * self._trips(each), body, fused)
            elif each.opcode in ("fusion", "call", "async-start", "conditional"):
                inside = fused or each.opcode in ("fusion", "async-start")
                for called in _CALLED.findall(each.text):
                    yield from self._walk(called, times, scheduled, inside)

    def _trips(self, loop: Instruction) -> int:
        """How often a loop runs: as the compiler says, else the limit that its counter meets.

        0 where the data decide: those are further rounds of `llmjax.model.expert_exchange`.
        """
        if known := _TRIPS.search(loop.text):
            return int(known[1])
        limits = [
            int(constant[1])
            for found in self._walk(_attribute(loop, "condition"), 1, "", False)
            if found.instruction.opcode == "constant" and _INTEGER.match(found.instruction.shape)
            if (constant := _CONSTANT.search(found.instruction.text))
        ]
        return max(limits, default=0)


def _attribute(instruction: Instruction, name: str) -> str:
    """The computation that an attribute names."""
    found = re.search(rf"{name}=%?([\w.\-]+)", instruction.text)
    assert found, f"{instruction.opcode} without {name}"
    return found[1]


def _split_shape(text: str) -> tuple[str, str]:
    """Splits "shape opcode(operands)" after the shape, which may be a tuple."""
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, rest
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: index + 1], text[index + 1 :].strip()
    return text, ""
