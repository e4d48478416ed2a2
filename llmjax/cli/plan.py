"""`llmjax plan`."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from llmjax.cli.command import Call, Command, Output
from llmjax.cli.terminal import spinner
from llmjax.cli.train import ALIASES as TRAIN_ALIASES
from llmjax.errors import UserError
from llmjax.run.config.checks import validate
from llmjax.run.config.files import load_config_file
from llmjax.run.config.overrides import HELP
from llmjax.run.config.schema import Config
from llmjax.run.planning.advice import advice
from llmjax.run.planning.compiled import require_compiler
from llmjax.run.planning.compiling import with_compiled
from llmjax.run.planning.page import as_data, page
from llmjax.run.planning.plan import Plan, analytic_plan
from llmjax.run.planning.search import Found, lines, ranked, search, table
from llmjax.run.planning.topology import Topology, parse_topology, present_topology
from llmjax.training.initialization import resolve_init_from

COMPILED = 3
"""Settings of a search that are compiled."""


@dataclass(frozen=True)
class PlanOptions(Config):
    """The config of a run, and what it is planned for."""

    topology: str | None = None
    """The devices, which need not be there: v5e:16x16, v5p:4x4x4, v6e:16x16, h100:2x8 (hosts x
    GPUs), h200:8, b200:8, cpu. none: those of this machine."""
    slices: int = 1
    """TPU slices of that topology."""
    tokens: float | None = None
    """Tokens to train on, for time and cost. none: those of the run."""
    price: float | None = None
    """Price per chip-hour, in any currency."""

    @property
    def config(self) -> Config:
        """The config alone."""
        names = (field.name for field in dataclasses.fields(Config))
        return Config(**{name: getattr(self, name) for name in names})


def run(call: Call[PlanOptions]) -> Output:
    """Plans, searches, or both with a compiler."""
    options = call.options
    topology = _topology(options)
    if "compile" in call.flags:
        require_compiler(topology)
    config = resolve_init_from(options.config)
    if "search" in call.flags:
        return _search(config, topology, "compile" in call.flags)
    plan = analytic_plan(config, topology)
    if "compile" in call.flags:
        with spinner("Compiling the step, which takes one to four minutes"):
            plan = with_compiled(plan)
    tokens = options.tokens or _tokens(config, plan)
    words = tokens, options.price, tuple(advice(plan))
    return Output(as_data(plan, *words), page(plan, *words))


def _topology(options: PlanOptions) -> Topology:
    if options.topology is None:
        return present_topology()
    return parse_topology(options.topology, options.slices)


def _tokens(config: Config, plan: Plan) -> float:
    """Tokens of the run; of the steps if it is given in epochs, whose text is not read here."""
    stages = config.data.all_stages()
    ends = [stage.first_step for stage in stages[1:]] + [config.steps]
    return float(
        sum(
            max(0, end - stage.first_step) * stage.batch_size * stage.length
            for stage, end in zip(stages, ends, strict=True)
        )
    )


def _search(config: Config, topology: Topology, compiles: bool) -> Output:
    with spinner("Planning candidates"):
        result = search(config, topology)
    found: Sequence[Found] = result.fitting
    if compiles:
        with spinner(f"Compiling the best {COMPILED}"):
            best = [Found(each.candidate, with_compiled(each.plan)) for each in found[:COMPILED]]
        found = ranked(best)
        if not found and best:
            raise UserError(
                "--search --compile",
                f"none of the {len(best)} fastest settings fits, says the compiler",
                "plan with more devices, or choose a slower setting of --search without --compile",
            )
    data = {"tried": result.tried, "fitting": len(result.fitting), "best": table(config, found)}
    return Output(data, "\n".join(lines(config, result, found)))


def _defaults(name: str) -> PlanOptions:
    return PlanOptions(**vars(load_config_file(name)))


def _finish(options: PlanOptions, flags: frozenset[str]) -> PlanOptions:
    own = {"topology", "slices", "tokens", "price"}
    rest = {name: value for name, value in vars(options).items() if name in own}
    for name in ("tokens", "price"):
        if (value := rest[name]) is not None and not 0 < value < 1e30:
            raise UserError(f"--{name} {value}", "is not positive")
    return PlanOptions(**vars(validate(options.config)), **rest)


PLAN = Command(
    about="Plans the training of CONFIG (as for `llmjax train`) before there is a device: memory "
    "by kind, predicted time per step, tokens per second, MFU, days and cost. The plan is "
    "analytic unless --compile is given, which asks the compiler of the devices. Neither needs "
    "a device.",
    positionals=("CONFIG",),
    usage="[--topology CHIP:SIZES] [--tokens N] [--price X] [--search] [--field value ...]",
    options=PlanOptions,
    run=run,
    flags={
        "search": "Try meshes, remat policies and microbatches, and rank those that fit.",
        "compile": "Ask the compiler of the devices, which llmjax[plan-tpu] or llmjax[plan-gpu] "
        f"installs; CPUs need neither. With --search, for the best {COMPILED}.",
    },
    notes=HELP,
    shown=(
        "topology", "slices", "tokens", "price", "data.batch_size", "data.length",
        "compute.remat", "compute.dtype", "optimizer", "optimizer.accumulate", "mesh.data",
        "mesh.fsdp", "mesh.sequence", "mesh.tensor",
    ),
    aliases=TRAIN_ALIASES,
    defaults=_defaults,
    validated=True,
    finish=_finish,
    compiles=False,
)  # fmt: skip
