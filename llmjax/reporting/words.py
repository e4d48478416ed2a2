"""The sentences of the page: what was done, what it came to, what is missing."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmjax.reporting import bars, of_tasks, record
from llmjax.reporting.facts import Fact
from llmjax.reporting.heldout import Comparison
from llmjax.reporting.history import History, column, last, split_evals
from llmjax.reporting.numbers import count, duration, percent, short, size
from llmjax.run.config.schema import Config


def lede(config: Config, history: History, environment: Mapping[str, Any]) -> str:
    """The run in a sentence or two, as far as it is known."""
    model = config.model
    stacks = {"encoder": model.num_encoder_layers, "decoder": model.num_decoder_layers}
    kind = "-".join(name for name, layers in stacks.items() if layers) or "model"
    layers = "+".join(str(layers) for layers in stacks.values() if layers)
    recorded = record.part(environment, "model"), record.part(environment, "data")
    parameters = record.known_number(recorded[0], "parameters")
    text = record.known_number(recorded[1], "train_bytes")
    article = "An" if kind[0] == "e" else "A"
    subject = f"{article} {kind} of {layers} layers, {model.d_model} wide"
    subject += f", with {short(parameters)} parameters" if parameters is not None else ""
    begun = f", begun from {Path(config.init_from).name}" if config.init_from else ""
    if not history.train:
        return f"{subject}{begun}. No training step has been logged."
    step, tokens = history.train[-1]["step"], last(history.train, "tokens")
    seconds = record.wall_seconds(history, environment)
    done = f"trained for {count(step)} step{'' if step == 1 else 's'}"
    done += f" ({short(tokens)} tokens)" if tokens is not None else ""
    done += f" on {size(text)} of text" if text is not None else ""
    done += of_tasks.subject(environment) if config.tasks else ""
    done += f" in {duration(seconds)}" if seconds else ""
    where = record.devices(environment)
    return f"{subject}{begun}, {done}{f' on {where}' if where else ''}."


def headline(
    history: History, environment: Mapping[str, Any], comparison: Comparison
) -> list[Fact]:
    """The figures in large letters: what it came to, and at what cost."""
    heldout, train = (last(lines, "bits_per_byte") for lines in (history.evals, history.train))
    accuracy, loss = (last(history.evals, key) for key in ("accuracy", "loss"))
    if heldout is None and accuracy is not None and loss is not None:
        found = [Fact("of what was hidden of held-out text told rightly", percent(accuracy))]
        found.append(Fact("nats per hidden token", f"{loss:.3f}"))
    elif heldout is not None:
        found = [Fact("bits per byte of held-out text", f"{heldout:.3f}")]
    elif train is not None:
        found = [Fact("bits per byte of the last training batches", f"{train:.3f}")]
    else:
        return []
    if heldout is not None and comparison.baselines and bars.same_text(history, comparison):
        reference = comparison.baselines[0]
        share = 1 - heldout / reference.bits_per_byte
        word = "smaller" if share >= 0 else "larger"
        found.append(Fact(f"{word} than {reference.name}", percent(abs(share))))
    tokens, seconds = last(history.train, "tokens"), record.wall_seconds(history, environment)
    found += [Fact("tokens trained on", short(tokens))] if tokens is not None else []
    found += [Fact("wall-clock time", duration(seconds))] if seconds else []
    return found


def warnings(config: Config, history: History, *, measured: bool = False) -> list[str]:
    """What a reader must not overlook; `measured` says whether tasks were measured apart."""
    said = []
    if not history.train and not history.evals:
        said.append("This run has logged nothing yet: metrics.jsonl is empty or missing.")
    elif not history.evals and not measured:
        what = "examples" if config.tasks else "text"
        said.append(
            f"Not evaluated on held-out {what} yet: the figures here are of training batches."
        )
    said += _unfinished(config, history)
    for lines, what in ((history.train, "training step"), (history.evals, "evaluation")):
        bad = [step for step, loss in column(lines, "loss") if not math.isfinite(loss)]
        if bad:
            said.append(
                f"The loss was not a finite number in {count(len(bad))} logged {what}"
                f"{'' if len(bad) == 1 else 's'}, first at step {count(bad[0])}; the curves have "
                "gaps there."
            )
    return said


def _unfinished(config: Config, history: History) -> list[str]:
    reached = max((line["step"] for line in (*history.train, *history.evals)), default=0)
    epochs = last(history.train, "epoch")
    if config.epochs is not None:
        if epochs is None or epochs >= config.epochs * 0.999:
            return []
        return [f"{epochs:.2f} of {config.epochs:g} epochs are logged so far."]
    if 0 < reached < config.steps:
        return [f"{count(reached)} of {count(config.steps)} steps are logged so far."]
    return []


def accounting(config: Config) -> str:
    """What the figures of such a run mean."""
    if config.tasks:
        return of_tasks.ACCOUNTING
    if not config.objective.is_causal:
        return (
            "Loss and accuracy are of the tokens that are to be told; in held-out text these are "
            "drawn from a fixed seed, the same at every evaluation. Training curves are of single "
            "batches; held-out text is never trained on."
        )
    return (
        "Bits per byte are nats / (ln 2 · UTF-8 bytes of the original text); every byte counts "
        "once, and the bits of special tokens count too. Training curves are of single batches; "
        "held-out text is never trained on."
    )


def figures_notes(history: History, comparison: Comparison) -> list[str]:
    """How to read the curves."""
    if not history.train and not history.evals:
        return ["No curves: no step has been logged."]
    said = []
    like, other = split_evals(history.evals)
    scored = column(like, "bits_per_byte")
    reference = next(iter(comparison.baselines), None)
    if reference is not None and len(scored) > 1 and bars.same_text(history, comparison):
        below = [step for step, bits in scored if bits < reference.bits_per_byte]
        if below:
            said.append(
                f"Below {reference.name}, the dashed level, for the first time at step "
                f"{count(below[0])}."
            )
    if other and like:
        sizes = [size for _, size in column(other, "heldout_bytes") if math.isfinite(size)]
        said.append(
            f"Some evaluations were of a part of the held-out text{_up_to(sizes)}: their curve "
            "compares with itself alone."
        )
    if len(history.train) >= 60:
        said.append(
            "Faint: single logged values, with the lowest and highest of each pixel kept. Strong: "
            "their running mean over 3 % of the way before and after."
        )
    return said


def _up_to(sizes: Sequence[float]) -> str:
    return f", at most {count(max(sizes))} bytes (evaluation.max_tokens)" if sizes else ""


def samples_note(config: Config, history: History) -> str:
    """How the samples were drawn, or why there are none."""
    if not history.samples:
        if config.samples.every:
            return f"No samples were logged; one is due every {count(config.samples.every)} steps."
        return "No samples: this run was not asked for any (samples.every)."
    how = config.samples.decoding
    drawn = "the likeliest token each time"
    if how.temperature > 0:
        drawn = f"temperature {how.temperature:g}"
    return f"The prompt in colour, then its continuation: {drawn}, not picked by hand."


def footnotes(history: History, environment: Mapping[str, Any]) -> list[str]:
    """What the page leaves out or puts together."""
    said = []
    starts = len(record.sessions(environment))
    if starts > 1:
        said.append(f"The run was started {count(starts)} times; the environment is the latest's.")
    if history.repeats:
        said.append(
            f"It went back to an earlier step {count(history.repeats)} "
            f"time{'' if history.repeats == 1 else 's'}; the later lines are shown."
        )
    if history.unreadable:
        said.append(
            f"{count(history.unreadable)} line{' was' if history.unreadable == 1 else 's were'} "
            "passed over as unreadable, such as one cut short when a process was killed."
        )
    if not environment:
        said.append("No environment.json: versions, machine and counts of the data are unknown.")
    return said
