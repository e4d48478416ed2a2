"""The time of a step from its parts."""

import pytest

from llmjax.parallel.chips import CHIPS
from llmjax.parallel.cycles import estimated_cycles, grouped_flops, splash_products
from llmjax.parallel.hlo import Program
from llmjax.parallel.roofline import StepTime, Transfer, attention_flops, cycle_seconds

V5E = CHIPS["v5e"]

PROGRAM = """HloModule step

%fused (p: f32[8]) -> f32[8] {
  %inner = f32[8]{0} add(%p, %p), backend_config={"estimated_cycles":"7"}
}

%body (arg: (s32[])) -> (s32[]) {
  %dot = f32[8]{0} fusion(%arg), calls=%fused, backend_config={"estimated_cycles":"100"}
  %splash_mha_fwd_residuals.1 = f32[8]{0} custom-call(%arg), custom_call_target="tpu_custom_call"
  %splash_mha_dkv.1 = f32[8]{0} custom-call(%arg), custom_call_target="tpu_custom_call"
}

%condition (arg: (s32[])) -> pred[] {
  %limit = s32[] constant(32)
}

ENTRY %main (p0: f32[8]) -> f32[8] {
  %loop = (s32[]) while(%p0), condition=%condition, body=%body
  %update = f32[8]{0} fusion(%p0), calls=%fused, backend_config={"estimated_cycles":"50"}
}
"""


def test_cycles_count_loops_and_each_fusion_once():
    program = Program(PROGRAM)
    assert estimated_cycles(program) == 32 * 100 + 50
    assert splash_products(program) == 32 * (2 + 5)
    separate = Program(
        PROGRAM.replace(
            "%update",
            "%splash_mha_dq.1 = f32[8]{0} custom-call(%p0), "
            'custom_call_target="tpu_custom_call"\n  %update',
        )
    )
    assert splash_products(separate) == 32 * (2 + 4) + 3
    assert cycle_seconds(V5E, 1.503e9) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="clock"):
        cycle_seconds(CHIPS["h100"], 1.0)


GROUPED = """HloModule step

%body (arg: (s32[])) -> (s32[]) {
  %ragged-dot-none.1 = f32[8]{0} custom-call(%arg), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"cost_estimate":{"flops":"70"}}}
}

%four (arg: (s32[])) -> pred[] {
  %limit = s32[] constant(4)
}

%further (arg: (s32[])) -> pred[] {
  %below = pred[] compare(%arg, %number), direction=LT
}

ENTRY %main (p0: f32[8]) -> f32[8] {
  %layers = (s32[]) while(%p0), condition=%four, body=%body
  %rounds = (s32[]) while(%p0), condition=%further, body=%body
  %tgmm.3 = f32[8]{0} custom-call(%p0), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"cost_estimate":{"flops":"5"}}}
  %other.1 = f32[8]{0} custom-call(%p0), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"cost_estimate":{"flops":"900"}}}
}
"""


def test_grouped_products_count_loops_but_not_those_whose_length_the_data_decide():
    assert grouped_flops(Program(GROUPED)) == 4 * 70 + 5


def test_attention_of_a_causal_row():
    """Two products forward of [T, T / 2] by the width of each head, two FLOPs a multiplication."""
    assert attention_flops(2, 1024, 512, 4, 64) == 2 * 2 * 1024 * 512 * 4 * 64


def test_hidden_collectives_cost_what_exceeds_the_products():
    def step(gather: float) -> StepTime:
        gathers = Transfer("all-gather", "a", gather * 1e9, 1e9, hidden=True)
        sums = Transfer("all-reduce", "b", 0.5e9, 1e9, hidden=False)
        return StepTime(products=2.0, attention=0.25, memory=0.25, transfers=(gathers, sums))

    assert step(1.0).total == pytest.approx(3.0)  # all of the gather is hidden
    assert step(3.0).total == pytest.approx(4.0)  # one second of it is not
    assert step(3.0).exposed == pytest.approx({0: 1.0, 1: 0.5})
