"""A plan as one page of text, and as plain data."""

from collections.abc import Iterator, Sequence
from typing import Any

from llmjax.model.compute import ComputeConfig
from llmjax.model.model import Model
from llmjax.parallel.chips import GIB
from llmjax.parallel.roofline import StepTime
from llmjax.run.planning.plan import Plan
from llmjax.run.telemetry.display import short_count, si

MEMORY_NAMES = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations kept (remat {remat})",
    "layer": "either: backward pass of one layer",
    "loss": "or: loss, with a chunk of logits and the LM head",
    "code": "code",
}


def as_data(
    plan: Plan, tokens: float, price: float | None, changes: Sequence[str]
) -> dict[str, Any]:
    """A plan as plain data; bytes, seconds, tokens per second.

    Args:
      plan: the plan.
      tokens: to train on.
      price: of a chip-hour; None: no cost.
      changes: from `advice`.
    """
    seconds, time = plan.seconds(tokens), plan.step_time
    cost = None
    if price is not None and seconds is not None:
        cost = price * plan.topology.chips * seconds / 3600
    return {
        "depth": plan.depth,
        "topology": plan.topology.name,
        "device": plan.topology.kind,
        "chips": plan.topology.chips,
        "devices": plan.topology.devices,
        "mesh": plan.sizes,
        "batch_size": plan.stage.batch_size,
        "length": plan.stage.length,
        "rows_per_device": plan.rows,
        "accumulate": plan.config.optimizer.accumulate,
        "pipeline": _pipeline_data(plan),
        "remat": plan.config.compute.remat,
        "quantization": plan.config.compute.quantization,
        "parameters": {str(kind): count for kind, count in plan.parameters.items()},
        "memory": {
            "analytic": plan.memory.by_kind() | {"peak": plan.memory.peak},
            "compiled": None
            if plan.compiled is None
            else plan.compiled.memory | {"peak": plan.compiled.peak},
            "needed": plan.needed,
            "available": plan.topology.memory,
            "fits": plan.fits,
        },
        "time": None if time is None else _time_data(time),
        "step_seconds": None if time is None else time.total,
        "tokens_per_second": plan.tokens_per_second,
        "tokens_per_second_per_chip": plan.tokens_per_chip,
        "flops_per_token": plan.flops_per_token,
        "mfu": plan.mfu,
        "tokens": tokens,
        "days": None if seconds is None else seconds / 86_400,
        "cost": cost,
        "checkpoint_bytes": plan.checkpoint,
        "collectives": None if plan.compiled is None else list(plan.compiled.collectives),
        "versions": None if plan.compiled is None else plan.compiled.versions,
        "advice": list(changes),
    }


def _pipeline_data(plan: Plan) -> dict[str, Any] | None:
    schedule = plan.work.schedule
    if schedule.stages == 1:
        return None
    return {**schedule._asdict(), "bubble": schedule.bubble}


def _time_data(time: StepTime) -> dict[str, Any]:
    exposed = time.exposed
    return {
        "products": time.products,
        "narrow_products": time.narrow,
        "grouped_products": time.grouped,
        "attention": time.attention,
        "memory": time.memory,
        "bubble": time.bubble,
        "collectives": [
            {
                "kind": each.kind,
                "axis": each.axis,
                "wire_bytes": each.wire_bytes,
                "seconds": each.seconds,
                "exposed": exposed[index],
            }
            for index, each in enumerate(time.transfers)
        ],
    }


def page(plan: Plan, tokens: float, price: float | None, changes: Sequence[str]) -> str:
    """A plan for people; see `as_data`."""
    lines = [*_head(plan), "", *_parameters(plan), "", *_memory(plan, changes), "", *_time(plan)]
    lines += ["", *_run(plan, tokens, price)]
    return "\n".join(lines)


def _head(plan: Plan) -> Iterator[str]:
    topology = plan.topology
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.sizes.items() if size > 1)
    count = f"{topology.chips} {topology.kind}" + (" chips" if topology.chip else " devices")
    devices = count if topology.chips > 1 else topology.kind
    yield f"{topology.name}: {devices}, {mesh or 'one device'}"
    parts = plan.config.optimizer.accumulate
    yield (
        f"{plan.stage.rows_text} per step, {plan.rows:g} on each device"
        + (f" at a time, {parts} times" if parts > 1 else "")
        + f"; {_dtypes(plan.config.compute)}, remat {plan.config.compute.remat}"
    )
    schedule = plan.work.schedule
    if schedule.stages > 1:
        yield (
            f"pipeline: {schedule.stages} stages, {schedule.microbatches} microbatches, rounds "
            f"{schedule.rounds}; the bubble is {schedule.bubble:.1%} of the layers' time"
        )
    if plan.compiled is None:
        yield "analytic: from the config and data sheets; --compile asks the compiler"
    else:
        yield f"compiled: {plan.compiled.versions}, {plan.compiled.seconds:.0f} s"


def _dtypes(compute: ComputeConfig) -> str:
    if compute.quantized is None:
        return compute.dtype
    return f"{compute.dtype}, products in {compute.quantized.dtype}"


def _parameters(plan: Plan) -> Iterator[str]:
    total = sum(plan.parameters.values())
    yield f"{'parameters':52}{short_count(total):>10}"
    for kind, count in plan.parameters.items():
        yield f"  {kind:50}{short_count(count):>10}{count / total:>8.1%}"
    if plan.model.moe is not None:
        active = Model(plan.model, plan.config.compute).num_active_params()
        yield f"  {'of which a token uses':50}{short_count(active):>10}{active / total:>8.1%}"


def _memory(plan: Plan, changes: Sequence[str]) -> Iterator[str]:
    available = plan.topology.memory
    yield f"{'memory per device (analytic)':52}{_gib(plan.memory.peak):>10}"
    for name, size in plan.memory.by_kind().items():
        label = MEMORY_NAMES[name].format(remat=plan.config.compute.remat)
        yield f"  {label:50}{_gib(size):>10}"
    if plan.compiled is not None:
        yield f"{'memory per device (compiled)':52}{_gib(plan.compiled.peak):>10}"
        for name, size in plan.compiled.memory.items():
            yield f"  {name:50}{_gib(size):>10}"
    if available is None:
        yield "the memory of this device is not known, so neither is whether the step fits"
        return
    share = plan.needed / available
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    yield f"{verdict}: {share:.0%} of {_gib(available)} ({plan.depth})"
    yield from (f"  {line}" for line in changes)


def _time(plan: Plan) -> Iterator[str]:
    time = plan.step_time
    if time is None:
        yield "time per step: n/a (the speed of this device is not in the table of chips)"
        return
    depth = "compiled" if plan.compiled and plan.compiled.time else "analytic"
    yield f"{f'time per step, predicted ({depth})':52}{time.total:>8.3f} s"
    parts = [("matrix products", time.products), ("attention", time.attention)]
    parts += [("memory traffic, optimizer", time.memory)] if time.memory else []
    parts += [("waiting for other stages (the bubble)", time.bubble)] if time.bubble else []
    for name, seconds in parts:
        yield f"  {name:50}{seconds:>8.3f} s{seconds / time.total:>8.1%}"
        if name == "matrix products" and time.narrow:
            yield f"    {_narrow(plan):48}{time.narrow:>8.3f} s{time.narrow / time.total:>8.1%}"
        if name == "matrix products" and time.grouped:
            share = time.grouped / time.total
            yield f"    {'of them of experts':48}{time.grouped:>8.3f} s{share:>8.1%}"
    exposed = time.exposed
    for index, each in enumerate(time.transfers):
        name = f"{each.kind} over {each.axis}, {each.wire_bytes / 1e9:.1f} GB"
        hidden = each.seconds - exposed[index]
        note = f"  ({hidden:.3f} s hidden)" if hidden > 0 else ""
        yield f"  {name:50}{exposed[index]:>8.3f} s{exposed[index] / time.total:>8.1%}{note}"
    assert plan.tokens_per_second is not None
    assert plan.tokens_per_chip is not None
    yield f"{'tokens per second':52}{plan.tokens_per_second:>10,.0f}"
    yield f"{'tokens per second per chip':52}{plan.tokens_per_chip:>10,.0f}"
    chip = plan.topology.chip
    assert chip is not None
    yield (
        f"{'MFU':52}{plan.mfu or 0:>10.1%}  {si(plan.flops_per_token)}FLOP per token as in PaLM, "
        f"peak {si(chip.flops)}FLOP/s"
    )


def _narrow(plan: Plan) -> str:
    """The products with operands of 8 bits, their share, and the peak they are planned with."""
    quantized, chip = plan.config.compute.quantized, plan.topology.chip
    assert quantized is not None
    assert chip is not None
    flops = plan.work.row_flops
    share = flops.narrow / (flops.narrow + flops.wide + flops.grouped)
    peak = chip.narrow_flops(quantized.dtype) or chip.flops
    return f"of them in {quantized.dtype}: {share:.0%} of FLOPs, {si(peak)}FLOP/s"


def _run(plan: Plan, tokens: float, price: float | None) -> Iterator[str]:
    seconds = plan.seconds(tokens)
    days = "n/a" if seconds is None else f"{seconds / 86_400:.3g} days"
    steps = tokens / plan.tokens
    yield f"{f'{short_count(tokens)} tokens: {steps:,.0f} steps':52}{days:>10}"
    if price is not None:
        cost = None if seconds is None else price * plan.topology.chips * seconds / 3600
        shown = "n/a" if cost is None else f"{cost:,.0f}"
        yield f"{f'cost at {price:g} per chip-hour':52}{shown:>10}"
    yield f"{'checkpoint':52}{_gib(plan.checkpoint):>10}"
    if plan.config.tasks:
        yield "task heads are not included, and all rows are planned as text"


def _gib(size: float) -> str:
    return f"{size / GIB:,.2f} GiB"
