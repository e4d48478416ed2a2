"""`llmjax choose`."""

from llmjax.cli.command import Call, Command, Output, print_json
from llmjax.errors import UserError
from llmjax.evaluation.choose import ChooseOptions, choose


def run(call: Call[ChooseOptions]) -> Output:
    """Scores the choices; prints a table, or a JSON line for each question."""
    if not call.options.data:
        raise UserError("choose", "there are no questions", "give --data FILE.jsonl")
    result = choose(
        call.words[0],
        options=call.options,
        each=(lambda rated: print_json(rated.to_dict())) if call.as_json else None,
    )
    return Output(result.to_dict(), result)


CHOOSE = Command(
    about="Zero-shot multiple choice: the likelihood of each choice after its question, accuracy, "
    "and accuracy by likelihood per byte, with bootstrap intervals. --json prints a line for each "
    "question as it is scored, and the metrics on the last line.",
    positionals=("RUN",),
    usage="--data FILE.jsonl [--option value ...]",
    options=ChooseOptions,
    run=run,
)
