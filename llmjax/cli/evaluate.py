"""`llmjax evaluate`."""

from collections.abc import Sequence

from rich.console import Console

from llmjax.cli.command import Call, Command, Output
from llmjax.data.progress import terminal_progress
from llmjax.evaluation.baselines import Baseline, comparison_table
from llmjax.evaluation.evaluate import EvaluateOptions, Evaluation, evaluate
from llmjax.evaluation.task_evaluation import TaskEvaluations
from llmjax.reporting.compressors import compare, validation_text
from llmjax.run.folder import Run


def run(call: Call[EvaluateOptions]) -> Output:
    """Evaluates; prints a table, or JSON."""
    with terminal_progress() as progress:
        result = evaluate(call.words[0], options=call.options, progress=progress)
    baselines = () if call.options.data else _baselines(call.words[0], result)
    if not baselines:
        return Output(result.to_dict(), result)
    bits_per_byte = {baseline.name: baseline.bits_per_byte for baseline in baselines}
    assert result.bits_per_byte is not None  # or there would be nothing to compare
    console = Console()
    with console.capture() as table:
        console.print(comparison_table(result.bits_per_byte, baselines))
    data = result.to_dict() | {"baselines": bits_per_byte}
    return Output(data, f"{result}\n\n{table.get()[:-1]}")


def _baselines(folder: str, result: Evaluation | TaskEvaluations) -> Sequence[Baseline]:
    """Classical compressors on the same validation set; none if it was evaluated in part."""
    if result.bits_per_byte is None:
        return ()
    run = Run.open(folder)
    baselines = compare(run.folder, lambda: validation_text(run, run.config())).baselines
    return [baseline for baseline in baselines if baseline.original_bytes == result.bytes]


EVALUATE = Command(
    about="Loss per token, perplexity and bits per byte of the validation set or of any file: "
    "every byte of the text counts once, the bits of special tokens included. For a fine-tuned "
    "run, its tasks' metrics, on their validation sets or on other tables. All with 95 % bootstrap "
    "intervals.",
    positionals=("RUN",),
    usage="[--data FILE ...] [--option value ...]",
    options=EvaluateOptions,
    run=run,
)
