"""What the model wrote as it learned, thinned to a few steps."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from llmjax.reporting.history import Line
from llmjax.reporting.numbers import count

MOST_STEPS = 8
"""Steps of which samples are shown: the first, the last, and some between, ever further apart."""
MOST_CHARACTERS = 2000
"""Characters shown of one sample."""
MOST_SAMPLES = 8
"""Samples shown of one step."""


@dataclass(frozen=True)
class Sample:
    """A prompt and its continuation."""

    prompt: str
    text: str


@dataclass(frozen=True)
class Written:
    """What the model wrote at one step."""

    step: str
    samples: Sequence[Sample]


def written(lines: Sequence[Line]) -> list[Written]:
    """Samples by step, the latest step first.

    Args:
      lines: of samples.jsonl: "step", "prompt", "text"; the text may begin with its prompt.
    """
    by_step: dict[int, list[Sample]] = {}
    for line in lines:
        sample = _sample(str(line.get("prompt", "")), line["text"])
        by_step.setdefault(line["step"], []).append(sample)
    some = reversed(_some(sorted(by_step)))
    return [Written(count(step), by_step[step][:MOST_SAMPLES]) for step in some]


def _some(steps: Sequence[int]) -> list[int]:
    """At most MOST_STEPS of them, their indices growing geometrically."""
    if len(steps) <= MOST_STEPS:
        return list(steps)
    ratio = (len(steps) - 1) ** (1 / (MOST_STEPS - 2))
    places = {0, *(round(ratio**n) for n in range(MOST_STEPS - 1))}
    return [steps[place] for place in sorted(places)]


def _sample(prompt: str, text: str) -> Sample:
    prompt, text = visible(prompt), visible(text.removeprefix(prompt))
    return Sample(prompt, text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + " …")


def visible(text: str) -> str:
    """Text with its control characters made visible, and without halves of characters."""
    pictures = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
    whole = text.encode("utf-8", "replace").decode("utf-8").translate(pictures)
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\ufffd" for c in whole)
