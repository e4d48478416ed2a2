"""`llmjax fill-mask`."""

from dataclasses import asdict, dataclass

from llmjax.cli.command import Call, Command, Output
from llmjax.errors import UserError
from llmjax.inference.fill_mask import Candidate, FillMaskOptions, fill_mask
from llmjax.inference.language_model import load


@dataclass(frozen=True)
class Options(FillMaskOptions):
    """Options of fill-mask: those of the function, and the texts."""

    text: tuple[str, ...] = ()
    """A text with the model's mask token, such as [MASK]; repeat it for more."""


def run(call: Call[Options]) -> Output:
    """Fills masks; prints a table, or JSON."""
    name, options = call.words[0], call.options
    if not options.text:
        raise UserError("fill-mask", "there is no text", "give --text TEXT")
    lm = load(name, options)
    results = [(text, fill_mask(lm, text, options=options)) for text in options.text]
    texts = [
        {"text": text, "masks": [[asdict(candidate) for candidate in mask] for mask in masks]}
        for text, masks in results
    ]
    lines = [line for text, masks in results for line in _table(text, masks)]
    return Output({"run": name, "texts": texts}, "\n".join(lines))


def _table(text: str, masks: list[list[Candidate]]) -> list[str]:
    lines = []
    for number, candidates in enumerate(masks, 1):
        lines.append(text if len(masks) == 1 else f"{text}  (mask {number} of {len(masks)})")
        for candidate in candidates:
            token = candidate.text.strip() or repr(candidate.text)
            lines.append(f"  {candidate.probability:7.2%}  {token}")
    return lines


FILL_MASK = Command(
    about="The likeliest tokens for each mask of a text, with their probabilities.",
    positionals=("RUN",),
    usage='--text "Paris is the [MASK] of France." [--top N]',
    options=Options,
    run=run,
    single=("text",),
)
