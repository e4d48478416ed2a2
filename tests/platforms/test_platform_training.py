"""Training steps for GPUs and TPUs: they trace, lower, and use the expected kernels."""

from dataclasses import replace
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pretend
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.losses.loss import with_bits_per_byte
from llmjax.losses.token_loss import token_loss
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig, Dtype, Remat
from llmjax.model.config import ModelConfig
from llmjax.model.families import bert_base
from llmjax.model.model import Model
from llmjax.model.moe_config import MoEConfig
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.optimizers.standard import AdamWConfig, LionConfig, SgdConfig
from llmjax.optimizers.trainable import lr_multipliers
from llmjax.parallel import mesh
from llmjax.parallel.mesh import MeshConfig
from llmjax.run.config.files import load_config_file, presets
from llmjax.state import TrainState, split
from llmjax.step import make_train_step
from llmjax.tasks.heads import Network
from llmjax.tasks.packing import shape_of
from llmjax.tasks.task import TaskContext, network_of
from task_models import rows_of

LENGTH, ROWS = 256, 16
DECODER = ModelConfig(num_kv_heads=2)
COMPUTE = ComputeConfig(dtype="bfloat16", remat="dots")
# The models of imported runs that presets start from.
BASES = {"runs/minilm": bert_base(vocab_size=0), "runs/smollm2": DECODER, "runs/chat": DECODER}
TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
EXAMPLES = {
    "classification": [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}],
    "regression": [
        {"sentence_A": "a", "sentence_B": "b", "relatedness_score": 1.0},
        {"sentence_A": "c", "sentence_B": "d", "relatedness_score": 2.0},
    ],
    "token_classification": [{"tokens": ["a", "b"], "tags": ["O", "B-X"]}],
    "extractive_qa": [
        {"question": "q", "context": "a b", "answers": {"text": ["a"], "answer_start": [0]}},
    ],
    "sequence": [{"source": "a", "target": "b"}],
    "chat": [{"messages": TURNS}],
    "preference": [{"prompt": "a", "chosen": "b", "rejected": "c"}],
    "similarity": [{"text": "a", "pair": "b"}, {"text": "c", "pair": "d"}],
}
CONSTANT = ScheduleConfig(shape="constant", warmup_steps=0)
ADAM = AdamWConfig(schedule=CONSTANT)
SPLASH = "custom_call @tpu_custom_call"


def small(model, **changes):
    """The same architecture and head width, smaller in everything else."""
    layers = {
        name: min(getattr(model, name), 2) for name in ("num_encoder_layers", "num_decoder_layers")
    }
    kv = None if model.num_kv_heads is None else 2
    sizes = {"d_model": 64, "head_dim": model.head_width, "num_heads": 4, "num_kv_heads": kv}
    sizes |= {"d_ff": 128, "max_length": max(LENGTH, 256)}
    if model.mla is not None:
        sizes["head_dim"] = None
    if model.moe is not None:
        sizes["moe"] = replace(model.moe, dense_layers=model.moe.dense_layers[:1])
    return replace(model, **layers | sizes | changes)


def step_of(network, loss, config, parts=None, **options):
    """(train step, its state, frozen parameters); call it inside `pretend.devices`."""
    axes, params = network.logical_axes(), pretend.params_of(network)
    rates = lr_multipliers(parts, network.model.config, params) if parts else None
    trainable = jax.tree.map(lambda _: True, axes, is_leaf=lambda x: isinstance(x, tuple))
    if rates is not None:
        trainable = jax.tree.map(lambda factor: bool(np.any(factor)), rates)
        rates = split(rates, trainable)[0]
    optimizer = make_optimizer(config, 10**6, split(axes, trainable)[0], rates)

    def begin():
        params, frozen = split(network.init(jax.random.key(0)), trainable)
        return TrainState(jnp.int32(0), params, optimizer.init(params)), frozen

    parts = min(config.accumulate, 2)
    step = make_train_step(
        loss, optimizer, seed=0, clip_norm=config.clip_norm, accumulate=parts, **options
    )
    return step, *jax.eval_shape(begin)


def text_step(
    model,
    compute=COMPUTE,
    optimizer=ADAM,
    segments=True,
    token_bytes=None,
    rows=ROWS,
    length=LENGTH,
    **options,
):
    """Traces a step of pre-training."""
    model = Model(resolve(model, 512), compute)

    def loss(params, batch, key):
        dropped = key if model.compute.dropout else None
        loss = token_loss(model, params, batch, dropout_key=dropped, z_loss=1e-4)
        if token_bytes is None:
            return loss
        return with_bits_per_byte(loss, batch["targets"], batch["weights"], token_bytes)

    encoder = length if model.config.is_encoder_decoder else 0
    step, state, _ = step_of(Network(model), loss, optimizer, **options)
    batch = pretend.packed(rows, length, segments=segments, encoder=encoder)
    return step.trace(state, batch, None)


def task_step(config, task_config, model):
    """Traces a step of fine-tuning."""
    tokenizer = BytesTokenizer()
    model = Model(resolve(model, tokenizer.vocab_size), config.compute)
    rows = rows_of(*EXAMPLES[task_config.kind])
    facts = task_config.find_metadata(rows)
    if task_config.kind == "preference":
        facts = replace(facts, references={})
    task = task_config.open(TaskContext(tokenizer, model.config, LENGTH), facts)
    examples = task.examples(rows)
    shape = shape_of(examples, LENGTH, encodes=model.config.is_encoder_decoder)

    def loss(params, batch, key):
        return task.loss(model, params, batch, key if model.compute.dropout else None)

    step, state, frozen = step_of(
        network_of(model, [task]), loss, config.optimizer, config.trainable
    )
    batch = {
        name: pretend.array(array.shape, array.dtype, *array.axes)
        for name, array in shape.spec(ROWS).items()
    }
    return step.trace(state, batch, frozen)


@pytest.mark.parametrize("platform", pretend.DEVICES)
@pytest.mark.parametrize("name", sorted(presets()))
def test_presets(name, platform):
    """Every preset's step, with its own attention, dtype, remat, optimizer and packing."""
    config = load_config_file(name)
    base = BASES.get(config.init_from)
    model = config.model
    if base is not None:
        model = replace(base, lora=model.lora)
    model = small(model)
    with pretend.devices(platform, **pretend.EIGHT):
        if config.tasks:
            traced = [task_step(config, task, model) for task in config.tasks]
        else:
            traced = [text_step(model, config.compute, config.optimizer)]
    for program in traced:
        kernels = pretend.kernels(program)
        assert not [name for name in pretend.primitives(program.jaxpr) if "callback" in name]
        if platform == "tpu":
            assert set(kernels) == {pretend.PALLAS}
            assert SPLASH in pretend.lowered(program, platform)
        elif config.compute.dtype == "bfloat16":
            assert set(kernels) == {pretend.PALLAS}
            assert kernels[pretend.PALLAS] % 3 == 0, "forward, and backward in two"
        else:
            assert not kernels
            pretend.lowered(program, platform)


PACKED, UNPACKED = {pretend.PALLAS: 3}, {pretend.CUDNN: 1, pretend.CUDNN_BACKWARD: 1}
"""Kernels of a step on GPUs: ours forward, and backward in two; cuDNN's."""


@pytest.mark.once  # JAX 0.12 lowers Pallas for a GPU only where there is one
@pytest.mark.parametrize("name", ["gpt2_124m", "llama_1b"])
def test_rows_on_one_gpu(name, monkeypatch):
    """The calls in the lowered program; cuDNN's need a device to lower to."""
    monkeypatch.setattr(mesh, "platform", lambda: "gpu")
    config = load_config_file(name)
    with jax.set_mesh(mesh.make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])):
        packed, unpacked = (
            pretend.lowered(
                text_step(small(config.model), config.compute, segments=segments), "gpu"
            )
            for segments in (True, False)
        )
    assert packed.count(pretend.TRITON) == 3
    assert "fmha" not in packed
    assert unpacked.count("__cudnn$fmhaSoftmax") == 2
    assert unpacked.count("__cudnn$fmhaSoftmaxBackward") == 1
    assert "Bias" not in unpacked


@pytest.mark.parametrize("sizes", [{}, {"tensor": 8}], ids=["fsdp", "tensor"])
def test_8b_on_64_gpus(sizes):
    """In full size and packed, as its file says that it runs."""
    config = load_config_file("llama_8b")
    length = config.data.length
    with pretend.devices("gpu", fsdp=64 // sizes.get("tensor", 1), **sizes):
        program = text_step(
            config.model,
            config.compute,
            config.optimizer,
            rows=config.data.batch_size,
            length=length,
        )
    assert pretend.kernels(program) == PACKED
    shapes = pretend.shapes(program.jaxpr)
    assert any(length in shape for shape in shapes)
    assert not [shape for shape in shapes if shape.count(length) > 1], "a mask of [T, S]"


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [{"fsdp": 1}, {"data": 8}, {"fsdp": 2, "tensor": 4}, {"fsdp": 4, "sequence": 2}],
    ids=["alone", "data", "tensor", "sequence"],
)
def test_meshes_of_gpus(sizes, segments):
    model = small(DECODER, num_kv_heads=4)
    with pretend.devices("gpu", **sizes):
        kernels = pretend.kernels(text_step(model, segments=segments))
    assert kernels == (PACKED if segments else UNPACKED)


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [{}, {"fsdp": 2, "tensor": 4}, {"fsdp": 4, "sequence": 2}],
    ids=["alone", "tensor", "sequence"],
)
def test_meshes_of_tpus(sizes, segments):
    with pretend.devices("tpu", **sizes):
        traced = text_step(small(DECODER, num_kv_heads=4), segments=segments)
        assert pretend.lowered(traced, "tpu").count(SPLASH) == 2, "forward, and backward"


@pytest.mark.parametrize("remat", get_args(Remat))
@pytest.mark.parametrize("platform", pretend.DEVICES)
def test_the_backward_pass_runs_no_forward_kernel(platform, remat):
    """Whatever is rematerialized, the residuals of fused attention are kept."""
    with pretend.devices(platform, fsdp=1):
        traced = text_step(small(DECODER), replace(COMPUTE, remat=remat))
        if platform == "gpu":
            assert pretend.kernels(traced) == PACKED
            unpacked = text_step(small(DECODER), replace(COMPUTE, remat=remat), segments=False)
            assert pretend.kernels(unpacked) == UNPACKED
        else:
            assert pretend.lowered(traced, platform).count(SPLASH) == 2


def test_what_is_offloaded_and_what_is_recomputed():
    """Names of remat and offload: attention runs again unless its output is kept."""

    def lowered(**fields):
        with pretend.devices("tpu", fsdp=1):
            traced = text_step(small(DECODER), replace(COMPUTE, **fields))
            return pretend.lowered(traced, "tpu")

    text = lowered(remat="input", offload=("input",))
    assert text.count(SPLASH) == 3, "forward twice"
    assert "pinned_host" in text
    text = lowered(remat="query,attention", offload=("query",))
    assert text.count(SPLASH) == 2
    assert "pinned_host" in text


@pytest.mark.parametrize("platform", pretend.DEVICES)
@pytest.mark.parametrize(
    "optimizer",
    [LionConfig(schedule=CONSTANT, accumulate=2), SgdConfig(schedule=CONSTANT)],
    ids=lambda value: value.kind,
)
def test_optimizers_of_no_preset(optimizer, platform):
    """With dropout and bits per byte."""
    compute = ComputeConfig(dropout=0.1)
    token_bytes = jnp.ones(512, jnp.int32)
    with pretend.devices(platform, **pretend.EIGHT):
        traced = text_step(small(DECODER), compute, optimizer, token_bytes=token_bytes)
        pretend.lowered(traced, platform)


@pytest.mark.parametrize("platform", pretend.DEVICES)
def test_the_state_is_donated(platform):
    """The new state reuses the memory of each array of the old one."""
    with pretend.devices(platform, fsdp=1):
        traced = text_step(small(DECODER, num_decoder_layers=1), replace(COMPUTE, dtype="float32"))
        donated = [leaf.donated for leaf in jax.tree.leaves(traced.args_info[0][0])]
        text = pretend.lowered(traced, platform)
    assert all(donated)
    aliases = text.count("tf.aliasing_output") + text.count("jax.buffer_donor")
    assert aliases == len(donated)


@pytest.mark.parametrize("platform", pretend.DEVICES)
@pytest.mark.parametrize("dtype", get_args(Dtype))
def test_evaluation(dtype, platform):
    model = Model(resolve(small(DECODER), 512), replace(COMPUTE, dtype=dtype))
    with pretend.devices(platform, **pretend.EIGHT):
        evaluate = jax.jit(partial(token_loss, model))
        traced = evaluate.trace(pretend.params_of(model), pretend.packed(ROWS, LENGTH))
        kernels = pretend.kernels(traced)
        assert kernels == kernel_of(platform, dtype)
        pretend.lowered(traced, platform)


def kernel_of(platform, dtype):
    """Returns the kernels of a forward pass."""
    if platform == "tpu":
        return {pretend.PALLAS: 1}
    return {pretend.PALLAS: 1} if dtype == "bfloat16" else {}


@pytest.mark.parametrize("sizes", [{}, pretend.EIGHT], ids=["one device", "eight"])
@pytest.mark.parametrize("platform", pretend.DEVICES)
def test_experts_are_products_of_their_own_rows(platform, sizes):
    """Forward three, and backward six: no expert is computed for the tokens of others."""
    moe = MoEConfig(selection_bias=True, balance_loss=0.01, expert_width=64, shared_width=64)
    model = small(DECODER, moe=moe, num_decoder_layers=1)
    with pretend.devices(platform, **sizes):
        traced = text_step(model, replace(COMPUTE, remat="none"))
        kernels = 3 if platform == "tpu" else 0  # of Megablox, for gradients of weights
        assert str(traced.jaxpr).count("ragged_dot_general[") == 9 - kernels
        assert str(traced.jaxpr).count("name=tgmm") == kernels
        pretend.lowered(traced, platform)
