"""Whether a run fits the memory of its devices, before anything is compiled."""

import logging
import math
import os
from dataclasses import replace

from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.parallel.chips import GIB
from llmjax.run.config.schema import Config
from llmjax.run.planning.advice import advice, nearest
from llmjax.run.planning.plan import Plan, analytic_plan
from llmjax.run.planning.topology import Topology, present_topology
from llmjax.state import TrainState
from llmjax.training.session import Session, check_memory

log = logging.getLogger(__name__)

SKIP = "LLMJAX_SKIP_MEMORY_CHECK"
"""Environment variable that turns a refusal into a warning."""
WORTH_A_PLAN = 0.25
"""Share of a CPU's memory from which a run is planned: a plan traces the model, which takes longer
than small runs have to wait."""


def check_fit(session: Session, state: TrainState) -> None:
    """Says how much of a device's memory a step takes (analytic); refuses a state that cannot fit.

    Activations are predicted, so that a step which seems too large is only warned of.

    Args:
      session: of the run.
      state: shapes, dtypes and shardings.

    Raises:
      UserError: parameters, gradients and optimizer state alone exceed the memory; names the
        nearest setting that fits.
    """
    copies = 1 if session.config.replay.every else 0
    try:
        check_memory(state, session.mesh, copies)
    except UserError as error:
        _refuse(session, error)
    if session.is_primary:
        _report(session)


def _refuse(session: Session, error: UserError) -> None:
    """Raises the error with the nearest setting that fits; warns instead if the user says so."""
    if os.environ.get(SKIP):
        log.warning("%s; tried because %s is set", error, SKIP)
        return
    config = _resolved(session.config, session.model.config)
    found = nearest(config, present_topology())
    rest = str(error).removeprefix(f"{error.thing}: {error.reason}; ")
    fix = f"this fits: {found.options(config)}; or {rest}" if found else rest
    raise UserError(error.thing, error.reason, f"{fix}; {SKIP}=1 tries it anyway") from error


def _report(session: Session) -> None:
    topology = present_topology()
    available = topology.memory
    config = _resolved(session.config, session.model.config)
    if available is None or (topology.platform == "cpu" and _is_small(config, topology)):
        return
    try:
        plan = analytic_plan(config, topology)
    except UserError:  # training itself will say what is wrong
        return
    log.warning("%s", in_words(plan))


def in_words(plan: Plan) -> str:
    """How much of a device's memory a step takes, and what to change if that is too much."""
    available = plan.topology.memory
    assert available is not None
    share = plan.needed / available
    text = (
        f"memory per device (analytic): {plan.needed / GIB:.1f} of {available / GIB:.1f} GiB "
        f"({share:.0%}), of which {plan.memory.state / GIB:.1f} are parameters, gradients and "
        "optimizer state"
    )
    changes = list(advice(plan))
    return "; ".join([text, "it may not fit", *changes]) if changes else text


def _resolved(config: Config, model: ModelConfig) -> Config:
    """The config with the vocabulary that its tokenizer has."""
    return replace(config, model=replace(config.model, vocab_size=model.vocab_size))


def _is_small(config: Config, topology: Topology) -> bool:
    """Whether a step takes little of the memory by a bound that needs no trace: each layer keeps
    its MLP's and attention's arrays in float32 and every score."""
    model = config.model
    available = topology.memory
    layers = model.num_encoder_layers + model.num_decoder_layers
    experts = 0 if model.moe is None else model.moe.experts_per_token * model.expert_width
    widths = 4 * max((model.mlp_width, *model.layer_d_ff, experts)) + 12 * model.d_model
    stage = config.data.largest_stage
    rows = math.ceil(stage.batch_size / config.optimizer.accumulate / topology.devices)
    kept = rows * stage.length * layers * (widths + model.num_heads * stage.length) * 4
    return available is None or kept < WORTH_A_PLAN * available
