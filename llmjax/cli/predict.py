"""`llmjax predict`."""

from llmjax.cli.command import Call, Command, print_json
from llmjax.evaluation.predict import PredictOptions, predict


def run(call: Call[PredictOptions]) -> None:
    """Streams predictions as JSON lines."""
    for prediction in predict(call.words[0], options=call.options):
        print_json(prediction)


PREDICT = Command(
    about="Predictions of a fine-tuned model for the rows of tables, streamed as a JSON object a "
    "line: labels with probabilities, numbers, tags of words, answers with their positions, text.",
    positionals=("RUN",),
    usage="--data FILE [--option value ...]",
    options=PredictOptions,
    run=run,
    single=("text",),
)
