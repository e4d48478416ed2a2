"""`llmjax skill`."""

from pathlib import Path

from llmjax.cli.command import Call, Command, Output
from llmjax.scaling.skill import Skill, SkillOptions, skill, skill_problems
from llmjax.scaling.skill_page import write_skill


def run(call: Call[SkillOptions]) -> Output:
    """Measures, and writes the page."""
    result = skill(call.words, call.options)
    page = write_skill(result, Path(call.options.out))
    data = {
        "models": [
            {"model": m.name, "step": m.step, "bits_per_byte": m.bits, "accuracy": m.accuracy}
            for m in result.models
        ],
        "lines": [
            {"length": line.length, "r": line.correlation, "interval": [line.low, line.high]}
            for line in result.lines
        ],
        "report": str(page),
    }
    return Output(data, f"{in_words(result)}\nreport: {page}")


def in_words(result: Skill) -> str:
    """The figures as a table, then the correlations."""
    width = max(len(model.name) for model in result.models) + 2
    heads = "".join(f"{f'{length} chars':>10}" for length in result.lengths)
    lines = [f"{'model':<{width}}{'bits/byte':>10}{heads}"]
    for model in sorted(result.models, key=lambda model: model.mean_bits):
        shares = "".join(f"{share:>10.1%}" for share in model.accuracy)
        lines.append(f"{model.name:<{width}}{model.mean_bits:>10.4f}{shares}")
    for line in result.lines:
        interval = f"{line.low:+.3f} to {line.high:+.3f}"
        lines.append(f"{line.length} characters: r = {line.correlation:+.3f} ({interval})")
    return "\n".join(lines)


SKILL = Command(
    about="Measures models on texts that they were not trained on: bits per byte, and how often "
    "they tell the true continuation of a passage from three taken from elsewhere; with a plot, "
    "a line and Pearson's r. A model is RUN, RUN@STEP, or RUN@all for all checkpoints.",
    positionals=("RUN...",),
    usage="--data FILE ... [--option value ...]",
    options=SkillOptions,
    run=run,
    check=skill_problems,
)
