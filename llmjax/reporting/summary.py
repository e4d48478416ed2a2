"""The sentences of the page: summary, headline metrics, warnings and notes."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmjax.reporting import tasks
from llmjax.reporting.compressors import Comparison, same_text
from llmjax.reporting.facts import Fact
from llmjax.reporting.format import count, duration, percent, short, size
from llmjax.reporting.records import (
    History,
    column,
    devices,
    finite_number,
    is_finished,
    last,
    section,
    sessions,
    wall_seconds,
)
from llmjax.reporting.validation import Validation, by_subset, latest_subset, subset_bytes
from llmjax.run.config.schema import Config


def lede(config: Config, history: History, environment: Mapping[str, Any]) -> str:
    """Summarizes the run in a sentence or two, as far as known."""
    model = config.model
    stacks = {"encoder": model.num_encoder_layers, "decoder": model.num_decoder_layers}
    kind = "-".join(name for name, layers in stacks.items() if layers) or "model"
    layers = "+".join(str(layers) for layers in stacks.values() if layers)
    parameters = finite_number(section(environment, "model"), "parameters")
    text = finite_number(section(environment, "data"), "train_bytes")
    article = "An" if kind[0] == "e" else "A"
    subject = f"{article} {kind} of {layers} layers, {model.d_model} wide"
    subject += f", with {short(parameters)} parameters" if parameters is not None else ""
    start = f", initialized from {Path(config.init_from).name}" if config.init_from else ""
    if not history.train:
        return f"{subject}{start}. No training step has been logged."
    step, tokens = history.train[-1]["step"], last(history.train, "tokens")
    seconds = wall_seconds(history, environment)
    done = f"trained for {count(step)} step{'' if step == 1 else 's'}"
    done += f" ({short(tokens)} tokens)" if tokens is not None else ""
    done += f" on {size(text)} of text" if text is not None else ""
    done += tasks.training_examples(environment) if config.tasks else ""
    done += f" in {duration(seconds)}" if seconds else ""
    hardware = devices(environment)
    return f"{subject}{start}, {done}{f' on {hardware}' if hardware else ''}."


def headline(
    history: History, environment: Mapping[str, Any], comparison: Comparison
) -> list[Fact]:
    """Returns the numbers in large type: the result, and its cost."""
    validation, train = (last(lines, "bits_per_byte") for lines in (history.evals, history.train))
    accuracy, loss = (last(history.evals, key) for key in ("accuracy", "loss"))
    if validation is None and accuracy is not None and loss is not None:
        facts = [Fact("accuracy on the targets of validation text", percent(accuracy))]
        facts.append(Fact("nats per target", f"{loss:.3f}"))
    elif validation is not None:
        part = _is_partial(history, environment)
        text = "a part of the validation text" if part else "validation text"
        facts = [Fact(f"bits per byte of {text}", f"{validation:.3f}")]
    elif train is not None:
        facts = [Fact("bits per byte of the last training batches", f"{train:.3f}")]
    else:
        return []
    if validation is not None and comparison.baselines and same_text(history, comparison):
        reference = comparison.baselines[0]
        share = 1 - validation / reference.bits_per_byte
        word = "smaller" if share >= 0 else "larger"
        facts.append(Fact(f"{word} than {reference.name}", percent(abs(share))))
    tokens, seconds = last(history.train, "tokens"), wall_seconds(history, environment)
    facts += [Fact("tokens trained on", short(tokens))] if tokens is not None else []
    facts += [Fact("wall-clock time", duration(seconds))] if seconds else []
    return facts


def _is_partial(history: History, environment: Mapping[str, Any]) -> bool:
    """Whether the last evaluation scored less than the whole validation text, as far as known."""
    evals = latest_subset(history.evals)
    whole = finite_number(section(environment, "data"), "heldout_bytes")
    return bool(evals and whole) and 0 < subset_bytes(evals[-1]) < (whole or 0)


def warnings(config: Config, history: History, *, has_measures: bool = False) -> list[str]:
    """Returns what a reader must not overlook.

    Args:
      config: the run's config.
      history: the logged lines.
      has_measures: whether its tasks have a measures.json.
    """
    sentences = []
    if not history.train and not history.evals:
        sentences.append("This run has logged nothing yet: metrics.jsonl is empty or missing.")
    elif not history.evals and not has_measures:
        data = "examples" if config.tasks else "text"
        sentences.append(
            f"Not evaluated on validation {data} yet: all numbers are of training batches."
        )
    sentences += _unfinished(config, history)
    for lines, noun in ((history.train, "training step"), (history.evals, "evaluation")):
        steps = [step for step, loss in column(lines, "loss") if not math.isfinite(loss)]
        if steps:
            sentences.append(
                f"The loss was not a finite number in {count(len(steps))} logged {noun}"
                f"{'' if len(steps) == 1 else 's'}, first at step {count(steps[0])}; the curves "
                "have gaps there."
            )
    return sentences


def _unfinished(config: Config, history: History) -> list[str]:
    reached = max((line["step"] for line in (*history.train, *history.evals)), default=0)
    epochs = last(history.train, "epoch")
    if config.epochs is not None:
        if epochs is None or is_finished(config, history):
            return []
        return [f"{epochs:.2f} of {config.epochs:g} epochs are logged so far."]
    if 0 < reached < config.steps:
        return [f"{count(reached)} of {count(config.steps)} steps are logged so far."]
    return []


def accounting(config: Config) -> str:
    """Defines the numbers of the run."""
    if config.tasks:
        return tasks.ACCOUNTING
    if not config.objective.is_causal:
        return (
            "Loss and accuracy are of the target tokens; in validation text these are sampled with "
            "a fixed seed, the same at every evaluation. Training curves show single batches; "
            "validation text is never trained on."
        )
    return (
        "Bits per byte are nats / (ln 2 · UTF-8 bytes of the original text); every byte counts "
        "once, and the bits of special tokens count too. Training curves show single batches; "
        "validation text is never trained on."
    )


def figures_notes(history: History, comparison: Comparison) -> list[str]:
    """Returns notes on how to read the curves."""
    if not history.train and not history.evals:
        return ["No curves: no step has been logged."]
    sentences = []
    evals = latest_subset(history.evals)
    scored = column(evals, "bits_per_byte")
    reference = next(iter(comparison.baselines), None)
    if reference is not None and len(scored) > 1 and same_text(history, comparison):
        below = [step for step, bits in scored if bits < reference.bits_per_byte]
        if below:
            sentences.append(
                f"Below {reference.name}, the dashed line, for the first time at step "
                f"{count(below[0])}."
            )
    sentences += _subset_notes(by_subset(history.evals))
    if len(history.train) >= 60:
        sentences.append(
            "Faint: single logged values, the lowest and highest of each pixel. Strong: their "
            "running mean, over 3 % of the steps so far to either side."
        )
    return sentences


def _subset_notes(validation: Validation) -> list[str]:
    """Says which part of the validation set the curve is of."""
    sentences = []
    if validation.larger:
        part, whole = (subset_bytes(lines[-1]) for lines in (validation.curve, validation.larger))
        of = f"the first {count(part)} bytes" if part else "a part"
        sentences.append(
            f"The validation curve is of {of} of the validation text (evaluation.max_tokens). A "
            f"diamond is of {count(whole)} bytes: a different text, not a point of that curve."
        )
    if validation.omitted:
        noun = "evaluation" if validation.omitted == 1 else "evaluations"
        sentences.append(f"Not drawn: {count(validation.omitted)} {noun} of another part.")
    return sentences


def samples_note(config: Config, history: History) -> str:
    """Says how the samples were generated, or why there are none."""
    if not history.samples:
        if config.samples.every:
            return f"No samples were logged; one is due every {count(config.samples.every)} steps."
        return "No samples: samples.every is not set."
    temperature = config.samples.decoding.temperature
    sampling = f"temperature {temperature:g}" if temperature > 0 else "greedy decoding"
    return f"The prompt in colour, then its continuation: {sampling}, not selected by hand."


def footnotes(history: History, environment: Mapping[str, Any]) -> list[str]:
    """Returns notes on what the page omits or combines."""
    sentences = []
    starts = len(sessions(environment))
    if starts > 1:
        sentences.append(
            f"The run was started {count(starts)} times; the environment is that of the last start."
        )
    if history.repeats:
        sentences.append(
            f"It resumed from an earlier step {count(history.repeats)} "
            f"time{'' if history.repeats == 1 else 's'}; the later lines are shown."
        )
    if history.unreadable:
        sentences.append(
            f"{count(history.unreadable)} line{' was' if history.unreadable == 1 else 's were'} "
            "skipped as unreadable, such as one cut short when a process was killed."
        )
    if not environment:
        sentences.append("No environment.json: versions, machine and amount of data are unknown.")
    return sentences
