"""Plans beside what is published, and beside what compilers say."""

from dataclasses import replace

import pytest

from llmjax.errors import UserError
from llmjax.parallel.chips import CHIPS, GIB
from llmjax.run.config.files import load_config_file
from llmjax.run.planning.advice import candidates
from llmjax.run.planning.plan import Plan, analytic_plan
from llmjax.run.planning.topology import parse_topology

LLAMA_70B = {
    "vocab_size": 32_000,
    "d_model": 8192,
    "num_decoder_layers": 80,
    "num_heads": 64,
    "d_ff": 28_672,
}


def llama(
    topology: str, batch_size: int, length: int = 8192, remat="full", compute=None, **model
) -> Plan:
    config = load_config_file("llama_8b")
    config = replace(
        config,
        model=replace(config.model, **({"vocab_size": 128_256} | model)),
        data=replace(config.data, batch_size=batch_size, length=length),
        compute=replace(config.compute, remat=remat, **(compute or {})),
    )
    return analytic_plan(config, parse_topology(topology))


def test_tokens_per_second_that_are_published():
    """MaxText: Llama 3.1 8B on 256 v6e, 3 rows of 8192 on a chip; Llama 2 70B on 512 v5p, 2 rows
    of 4096."""
    assert llama("v6e:16x16", 768).tokens_per_chip == pytest.approx(7207, rel=0.15)
    large = llama("v5p:8x8x8", 1024, length=4096, **LLAMA_70B)
    assert large.tokens_per_chip == pytest.approx(692, rel=0.15)


def test_mixtures_of_experts():
    """MaxText: Mixtral 8x7B on 256 v5p, 8 rows of 4096 on a chip, 2909 tokens/s. Bytes as libtpu
    0.0.42.1 compiles the step."""
    whole, split = mixtral(), mixtral(expert=8)
    assert whole.tokens_per_chip == pytest.approx(2909, rel=0.15)
    products = 3 + 2 + 3 + 3  # forward, recomputed, and the gradients of inputs and of weights
    flops = 2 * 2 * 4096 * 4096 * 14_336 * 32
    assert whole.work.row_flops.grouped == pytest.approx(products * flops)
    gathers = [
        sum(each.wire_bytes for each in plan.time.transfers if each.kind == "all-gather")
        for plan in (whole, split)
    ]
    assert gathers == pytest.approx([185.6e9, 28.3e9], rel=0.01)
    (exchange,) = (each for each in split.time.transfers if each.kind == "all-to-all")
    assert exchange.wire_bytes == pytest.approx(94.0e9, rel=0.01)
    assert whole.memory.parameters == split.memory.parameters
    assert split.memory.layer < whole.memory.layer, "a device gathers an expert of eight"


def test_a_search_tries_experts_and_stages_between_domains():
    def tried(name: str, topology: str, slices: int) -> list[set[int]]:
        found = [
            each.mesh
            for each in candidates(load_config_file(name), parse_topology(topology, slices))
        ]
        return [{getattr(mesh, axis) for mesh in found} for axis in ("data", "stage", "expert")]

    assert tried("mixtral_8x7b", "v5p:4x4x4", 1) == [{1}, {1}, {1, 2, 4, 8}]
    # 32 layers divide over 4 slices, and over 8 hosts; a replica or a stage in each domain.
    assert tried("llama_8b", "v5p:4x4x4", 4) == [{1, 4}, {1, 2, 4}, {1}]
    assert tried("llama_8b", "h100:8x8", 1) == [{1, 8}, {1, 2, 4, 8}, {1}]
    assert tried("gpt2_124m", "h100:8x8", 1)[1] == {1, 2, 4}, "12 layers do not divide over 8"


def mixtral(**mesh) -> Plan:
    config = load_config_file("mixtral_8x7b")
    return analytic_plan(
        replace(config, mesh=replace(config.mesh, **mesh)), parse_topology("v5p:4x8x8")
    )


def test_tokens_per_second_of_gpus_with_less_power():
    """torchtitan: Llama 3.1 8B on 8 H100, 2 rows on each, 6667. Theirs have 2.4 TB/s of memory and
    500 W, so that their peak is "between SXM and NVL"; every other product is recomputed."""
    slower = replace(CHIPS["h100"], flops=CHIPS["h100-nvl"].flops, bandwidth=2.4e12)
    seconds = []
    for remat in ("dots", "full"):
        plan = llama("h100:8", 16, remat=remat)
        chip = replace(plan.topology, chip=slower)
        seconds.append(1 / (analytic_plan(plan.config, chip).tokens_per_chip or 0))
    assert 2 / sum(seconds) == pytest.approx(6667, rel=0.15)


def test_memory_that_compilers_report():
    """libtpu 0.0.42, with code: 13.2 GiB on 256 v5e, 26.2 on 64 v5p."""
    small, large = llama("v5e:16x16", 512), llama("v5p:4x4x4", 256)
    assert small.memory.peak / GIB == pytest.approx(13.2, rel=0.1)
    assert large.memory.peak / GIB == pytest.approx(26.2, rel=0.1)
    assert small.fits
    away = replace(small.config, compute=replace(small.config.compute, offload=("input",)))
    moved = analytic_plan(away, small.topology).memory.activations
    assert small.memory.activations - moved == pytest.approx(32 * 2 * 8192 * 4096 * 2)
    assert small.tokens_per_chip == pytest.approx(2355, rel=0.05)  # from cycles: 2267 to 2443
    assert small.parameters["mlp"] == 32 * 3 * 4096 * 14_336
    assert small.checkpoint == pytest.approx(3 * 4 * 8.03e9, rel=0.001)


def test_quantized_products_are_faster():
    """The figures of docs/quantization.md, and what makes them."""
    for topology, rows, dtype, gain in (
        ("v5e:16x16", 512, "int8", 1.40),
        ("v6e:16x16", 768, "int8", 1.33),
        ("h100:8", 16, "fp8", 1.46),
    ):
        plans = [llama(topology, rows, compute={"quantization": q}) for q in ("none", dtype)]
        wide, narrow = plans
        speeds = [plan.tokens_per_chip for plan in plans]
        assert speeds[1] / speeds[0] == pytest.approx(gain, abs=0.005), topology
        flops = narrow.work.row_flops
        assert flops.narrow + flops.wide == wide.work.row_flops.wide
        # But for a scale for each output of a weight.
        assert narrow.memory.peak == pytest.approx(wide.memory.peak, rel=1e-3)
        times = wide.time, narrow.time
        assert times[0].products - times[1].products == pytest.approx(times[1].narrow, rel=2e-3)
    gathers = [plan.time.transfers[0].wire_bytes for plan in plans]
    layers = sum(plans[0].parameters[kind] for kind in ("attention", "mlp"))
    assert gathers[0] - gathers[1] == pytest.approx(2 * layers * 7 / 8)
    with pytest.raises(UserError, match="v5e has no fp8 products"):
        llama("v5e:16x16", 512, compute={"quantization": "fp8"})


def test_parts_of_a_step():
    plan = llama("v5p:8x8x8", 1024, length=4096, **LLAMA_70B)
    time = plan.time
    assert time is not None
    kinds = {(each.kind, each.axis): each for each in time.transfers}
    gathers, scatters = kinds["all-gather", "fsdp"], kinds["reduce-scatter", "fsdp"]
    # bfloat16 weights twice, and gradients once.
    assert gathers.wire_bytes == pytest.approx(2 * 2 * 69e9 * 511 / 512, rel=0.01)
    assert scatters.wire_bytes == pytest.approx(2 * 69e9 * 511 / 512, rel=0.01)
    assert gathers.bandwidth == pytest.approx(3 * 1.8e11)
    assert time.total == pytest.approx(
        time.products + time.attention + time.memory + scatters.seconds
    )
    assert plan.seconds(1e12) == pytest.approx(1e12 / (512 * plan.tokens_per_chip))
