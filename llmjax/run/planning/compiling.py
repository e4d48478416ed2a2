"""Adds what a compiler says to a plan."""

from dataclasses import replace

from llmjax.run.planning.compiled import compile_plan
from llmjax.run.planning.plan import Plan
from llmjax.run.planning.step_time import BACKWARD, FORWARD, step_attention_flops


def with_compiled(plan: Plan) -> Plan:
    """Compiles the step of a plan.

    Raises:
      UserError: as `compile_plan`.
    """
    layers = plan.model.num_encoder_layers + plan.model.num_decoder_layers
    flops = step_attention_flops(plan.work) / (FORWARD + BACKWARD) / layers
    flops *= plan.work.schedule.stages / plan.work.schedule.microbatches  # of a microbatch
    config, topology = plan.config, plan.topology
    return replace(plan, compiled=compile_plan(config, topology, plan.model.vocab_size, flops))
