"""Tables of facts about a run: label, value, and how the value is defined."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from llmjax.data.stages import Stage
from llmjax.reporting.format import count, duration, flops, percent, power, short, size
from llmjax.reporting.records import (
    History,
    Line,
    column,
    finite_number,
    flops_per_token,
    last,
    main_metric,
    number,
    section,
)
from llmjax.reporting.validation import by_subset, latest_subset, subset_bytes
from llmjax.run.config.schema import Config
from llmjax.run.telemetry.goodput import ACTIVITIES, Activity


@dataclass(frozen=True)
class Fact:
    """A row of a table."""

    label: str
    value: str
    note: str = ""


UNKNOWN = "not recorded"


def model_facts(config: Config, recorded: Mapping[str, Any]) -> list[Fact]:
    """Returns the architecture, and how much of it was trained."""
    model = config.model
    layers = {"encoder": model.num_encoder_layers, "decoder": model.num_decoder_layers}
    stacks = [f"{number} {name}" for name, number in layers.items() if number]
    heads = f"{model.num_heads} of width {model.head_width}"
    if model.mla is not None:
        heads += f", values {model.value_width}, of {model.cache_width} numbers per token"
    elif model.kv_heads != model.num_heads:
        heads += f", {model.kv_heads} for keys and values"
    if model.linear is not None:
        size = f"{model.linear.key_head_dim} by {model.linear.value_head_dim}"
        states = f"{model.linear.value_heads} states of {size}"
        heads += f"; {len(model.linear_layers)} layers with linear attention, {states}"
    mlp = f"{count(model.mlp_width)} wide, {'gated ' if model.gated else ''}{model.activation}"
    if model.moe is not None:
        mlp += (
            f"; {count(model.moe.num_experts)} experts {count(model.expert_width)} wide, "
            f"{count(model.moe.experts_per_token)} per token"
        )
    parameters = finite_number(recorded, "parameters")
    vocabulary = model.vocab_size or finite_number(recorded, "vocab_size")
    trainable = finite_number(recorded, "learning")
    trained_in_part = parameters and trainable is not None and trainable < parameters
    return [
        Fact("Parameters", _known(parameters, count)),
        *(
            [Fact("Trainable", f"{count(trainable)} ({percent(trainable / parameters, 2)})")]
            if trained_in_part and parameters and trainable is not None
            else []
        ),
        *([Fact("Initialized from", config.init_from)] if config.init_from else []),
        Fact("Layers", ", ".join(stacks)),
        Fact("Width", count(model.d_model)),
        Fact("Attention heads", heads),
        Fact("MLP", mlp),
        Fact("Norm and positions", f"{model.norm_placement}-{model.norm}, {model.positions}"),
        Fact("Vocabulary", _known(vocabulary, count)),
        Fact("Row length", _lengths(config)),
        Fact("Compute dtype", config.compute.dtype),
    ]


def _lengths(config: Config) -> str:
    """Returns the length of rows, and the steps at which it changes."""
    first, *later = config.data.all_stages()
    text, length = f"{count(first.length)} tokens", first.length
    for stage in later:
        if stage.length != length:
            text += f", {count(stage.length)} from step {count(stage.first_step)}"
        length = stage.length
    return text


def data_facts(config: Config, recorded: Mapping[str, Any], trained: float | None) -> list[Fact]:
    """Returns the amount of text, its split and its tokenization."""
    facts = [Fact("Sources", ", ".join(source.kind for source in config.data.sources))]
    for split, label in (("train", "Training text"), ("heldout", "Validation text")):
        documents, length, tokens = (
            finite_number(recorded, f"{split}_{what}") for what in ("documents", "bytes", "tokens")
        )
        known = [
            f"{count(documents)} documents" if documents is not None else "",
            size(length) if length is not None else "",
            f"{short(tokens)} tokens" if tokens is not None else "",
        ]
        facts.append(Fact(label, ", ".join(filter(None, known)) or UNKNOWN))
    facts.append(
        Fact(
            "Split",
            f"{percent(config.data.validation_fraction, 0)} of documents for validation",
            "by a hash of the document",
        )
    )
    facts.append(Fact("Tokenizer", config.tokenizer.kind))
    stored, tokens = (finite_number(recorded, f"train_{what}") for what in ("bytes", "tokens"))
    if stored and tokens:
        facts.append(Fact("Bytes per token", f"{stored / tokens:.2f}", "training text"))
    if tokens and trained:
        facts.append(Fact("Epochs", f"{trained / tokens:.2f}", "tokens trained on / tokens stored"))
    return facts


def goodput_facts(stored: Mapping[str, Any] | None) -> list[Fact]:
    """Returns what the wall time was spent on, as goodput.json has it; most first."""
    if stored is None or not (total := sum(stored["seconds"].values())):
        return [Fact("Goodput", UNKNOWN)]
    spent = sorted(stored["seconds"].items(), key=lambda item: -item[1])
    starts = f"{count(stored['starts'])} start" + ("s" if stored["starts"] != 1 else "")
    return [
        Fact("Wall time", duration(total), f"since the first of {starts}"),
        *(
            Fact(activity.capitalize(), f"{seconds / total:.1%}", _spent(activity, seconds))
            for activity, seconds in spent
            if seconds
        ),
    ]


def straggler_facts(history: History) -> list[Fact]:
    """Returns the processes that kept the others waiting; none for runs that compare none."""
    lines = [line for line in history.train if "straggler" in line]
    named: dict[tuple[int, str], list[Line]] = {}
    for line in lines:
        if (process := finite_number(line, "straggler")) is not None:
            host = str(line.get("straggler_host") or UNKNOWN)
            named.setdefault((int(process), host), []).append(line)
    if lines and not named:
        return [Fact("Stragglers", "none", f"in {count(len(lines))} logged steps")]
    return [
        Fact(
            f"Process {process}, host {host}",
            f"slow in {count(len(slow))} of {count(len(lines))} logged steps",
            _slowness(slow),
        )
        for (process, host), slow in sorted(named.items(), key=lambda item: -len(item[1]))
    ]


def _slowness(lines: Sequence[Line]) -> str:
    own, typical = (median(lines, key) for key in ("straggler_seconds", "typical_seconds"))
    if own is None or typical is None:
        return ""
    return f"its data and host took {own:.2g} s of a step, the median process {typical:.2g} s"


def _spent(activity: str, seconds: float) -> str:
    return f"{duration(seconds)}: {ACTIVITIES[cast(Activity, activity)]}"


def work_facts(
    history: History,
    environment: Mapping[str, Any],
    seconds: float | None,
    stages: Sequence[Stage] = (),
    *,
    spikes: bool = False,
) -> list[Fact]:
    """Returns steps, tokens, time and FLOPs, with their accounting; `spikes`: whether the steps of
    loss spikes are skipped."""
    train = history.train
    if not train:
        return [Fact("Steps", "none logged")]
    trained = last(train, "tokens")
    token_flops = flops_per_token(history, environment, stages)
    speeds = median(train, "tokens_per_second"), median(train, "model_flops_per_second")
    mfu, wait = median(train, "mfu"), median(train, "data_wait_share")
    memory = max(_finite(train, "device_memory_bytes"), default=None)
    facts = [
        Fact("Steps", count(train[-1]["step"])),
        Fact("Tokens trained on", _known(trained, count), "read by the model"),
        Fact(
            "Wall-clock time",
            _known(seconds, duration),
            "from each start, once the text is prepared, to its last line, including evaluations "
            "and samples",
        ),
        Fact(
            "Throughput", _known(speeds[0], lambda v: f"{short(v)} tokens/s"), "median of the log"
        ),
        Fact(
            "Training compute",
            f"{power(token_flops * trained)} FLOPs" if token_flops and trained else UNKNOWN,
            f"{power(token_flops)} per token: 6 for each weight it is multiplied with, and full "
            "attention even if causal (PaLM, appendix B); recomputation is not counted"
            if token_flops
            else "",
        ),
        Fact("Model FLOP/s", _known(speeds[1], flops), "median, same accounting"),
        Fact(
            "MFU",
            percent(mfu) if mfu is not None else "unknown: the peak of this device is not known",
            "model FLOP/s / the devices' bfloat16 peak" if mfu is not None else "",
        ),
        Fact("Waiting for data", _known(wait, percent), "median share of the time"),
        Fact(
            "Skipped steps",
            _known(last(train, "skipped"), count),
            "loss or gradient not finite" + (", or far above the recent ones" if spikes else ""),
        ),
        *_roll_back_facts(history),
    ]
    if memory is not None:
        facts.append(Fact("Device memory", size(memory), "highest logged, one device"))
    return facts


def _roll_back_facts(history: History) -> list[Fact]:
    """Returns how often the run went back after a loss spike; none for runs that never did."""
    if not history.roll_backs:
        return []
    steps = ", ".join(f"step {count(step)}" for step, _ in history.roll_backs)
    batches = sum(batches for _, batches in history.roll_backs)
    note = f"after loss spikes, to {steps}; {count(batches)} batches left out"
    return [Fact("Roll backs", count(len(history.roll_backs)), note)]


def environment_facts(session: Mapping[str, Any]) -> list[Fact]:
    """Returns the machine and the versions of the latest start."""
    if not session:
        return [Fact("Machine, versions, command", UNKNOWN)]
    machine, devices = section(session, "machine"), section(session, "devices")
    started = finite_number(session, "started")
    cores, memory = finite_number(machine, "cores"), finite_number(machine, "memory_bytes")
    number, processes = finite_number(devices, "count"), finite_number(devices, "processes")
    kind = _text(devices, "kind")
    kind = "CPU device" if kind == "cpu" else kind
    used = f"{_known(number, count)} {kind}" if number is not None else UNKNOWN
    if processes is not None and processes > 1:
        used += f" in {count(processes)} processes"
    processor = _text(machine, "processor")
    processor += f", {count(cores)} core{'' if cores == 1 else 's'}" if cores is not None else ""
    processor += f", {size(memory)} memory" if memory is not None else ""
    commit = _text(session, "git_commit")
    changed = "with uncommitted changes" if commit.endswith("+") else ""
    versions = [f"{name} {value}" for name, value in section(session, "versions").items()]
    return [
        Fact("Started", _known(started, _utc)),
        Fact("Devices", used),
        Fact("Processor", processor),
        Fact("System", _text(machine, "system")),
        Fact("Commit of llmjax", commit[:12].rstrip("+"), changed),
        Fact("Versions", ", ".join(versions) or UNKNOWN),
    ]


def evaluation_facts(history: History) -> list[Fact]:
    """Returns the last evaluation, and the best one if it came earlier."""
    evals = latest_subset(history.evals)
    if main_metric(evals) == "loss":
        return _sampled_facts(evals)
    scored = [line for line in evals if math.isfinite(number(line, "bits_per_byte"))]
    if not scored:
        return [Fact("Bits per byte", "not evaluated yet")]
    line = scored[-1]
    bits, loss = number(line, "bits_per_byte"), finite_number(line, "loss")
    length, tokens = (finite_number(line, f"heldout_{what}") for what in ("bytes", "tokens"))
    facts = [
        Fact("Step", count(line["step"])),
        Fact("Bits per byte", f"{bits:.4f}", "nats / (ln 2 · UTF-8 bytes)"),
        Fact("Loss per token", _known(loss, lambda v: f"{v:.4f} nats")),
        Fact("Perplexity per token", _known(loss, lambda v: f"{math.exp(min(v, 700)):,.2f}")),
    ]
    if length is not None:
        text = f"{count(length)} bytes"
        text += f", {count(tokens)} tokens" if tokens is not None else ""
        facts.append(Fact("Text scored", text, "end-of-text tokens included"))
    best = min(scored, key=lambda line: number(line, "bits_per_byte"))
    if best is not line:
        value = f"{number(best, 'bits_per_byte'):.4f} bits per byte"
        facts.append(Fact("Best so far", value, f"step {count(best['step'])}"))
    return [*facts, *_curve_facts(history, line)]


def _curve_facts(history: History, latest: Line) -> list[Fact]:
    """Returns the last evaluation on the subset of the curve, if the latest one is on another."""
    curve = by_subset(history.evals).curve
    bits, size = last(curve, "bits_per_byte"), subset_bytes(curve[-1]) if curve else 0.0
    if bits is None or size == subset_bytes(latest):
        return []
    where = f"step {count(curve[-1]['step'])}, on {count(size)} bytes (evaluation.max_tokens)"
    return [Fact("On the subset of the curve", f"{bits:.4f} bits per byte", where)]


def _sampled_facts(lines: Sequence[Line]) -> list[Fact]:
    """Returns the last evaluation of an objective that predicts sampled tokens only."""
    line = lines[-1]
    targets = finite_number(line, "heldout_tokens")
    return [
        Fact("Step", count(line["step"])),
        Fact("Accuracy", _known(finite_number(line, "accuracy"), lambda v: percent(v, 2))),
        Fact("Loss per target", _known(finite_number(line, "loss"), "{:.4f} nats".format)),
        Fact("Target tokens", _known(targets, count), "sampled with a fixed seed"),
    ]


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    return str(value) if value else UNKNOWN


def _known(value: float | None, form: Callable[[float], str]) -> str:
    return form(value) if value is not None else UNKNOWN


def _finite(lines: Sequence[Line], key: str) -> list[float]:
    return [value for _, value in column(lines, key) if math.isfinite(value)]


def median(lines: Sequence[Line], key: str) -> float | None:
    """Returns the median of the finite values of a column, or None."""
    values = _finite(lines, key)
    return statistics.median(values) if values else None


def _utc(seconds: float) -> str:
    """Formats a Unix time in UTC."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%-d %B %Y, %H:%M UTC")
    except (ValueError, OverflowError, OSError):  # outside of the years 1 to 9999
        return UNKNOWN
