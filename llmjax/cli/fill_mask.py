"""`llmjax fill-mask`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from llmjax.cli.options import ModelOptions
from llmjax.cli.verb import Verb, print_json
from llmjax.errors import UserError


@dataclass(frozen=True)
class _Texts:
    """What is filled in."""

    text: tuple[str, ...] = ()
    """A text with the model's mask token, such as [MASK]; give it again for more."""
    top: int = 5
    """Candidates of each mask."""


@dataclass(frozen=True)
class Options(ModelOptions, _Texts):
    """Options of fill-mask."""


VERB = Verb(
    usage='llmjax fill-mask RUN --text "Paris is the [MASK] of France." [--top N]',
    about="The likeliest tokens for each mask of a text, with their probabilities.",
    names=("RUN",),
    options=Options(),
    single=("text",),
)


def main(argv: Sequence[str]) -> int:
    """Fills masks; prints a table, or JSON."""
    parsed = VERB.parse(argv)
    if parsed is None:
        return 0
    options, run = parsed.options, parsed.positionals[0]
    if not options.text:
        raise UserError("fill-mask", "there is no text", "give --text TEXT")
    from llmjax.inference.fill_mask import fill_mask
    from llmjax.inference.language_model import load
    from llmjax.parallel.compilation import enable_compilation_cache

    enable_compilation_cache()
    lm = load(run, **options.loading())
    found = [(text, fill_mask(lm, text, top=options.top)) for text in options.text]
    if "json" in parsed.flags:
        texts = [
            {"text": text, "masks": [[asdict(one) for one in mask] for mask in masks]}
            for text, masks in found
        ]
        print_json({"run": run, "texts": texts})
        return 0
    for text, masks in found:
        for number, candidates in enumerate(masks, 1):
            print(text if len(masks) == 1 else f"{text}  (mask {number} of {len(masks)})")
            for one in candidates:
                print(f"  {one.probability:7.2%}  {one.text.strip() or repr(one.text)}")
    return 0
