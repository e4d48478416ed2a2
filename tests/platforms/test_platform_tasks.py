"""Tasks, embeddings and mask filling for GPUs and TPUs."""

from typing import get_args

import jax.numpy as jnp
import pytest

import pretend
from llmjax.inference import fill_mask, language_model, pooling
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig, Dtype
from llmjax.model.config import ModelConfig
from llmjax.model.families import bert_base
from llmjax.model.model import Model
from llmjax.run.origin import Pooling
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.extractive_qa import ExtractiveQATask
from llmjax.tasks.multilabel import MultiLabelTask
from llmjax.tasks.packing import shape_of
from llmjax.tasks.predict import packed_loss, packed_outputs
from llmjax.tasks.regression import RegressionTask
from llmjax.tasks.token_classification import TokenClassificationTask
from task_models import opened, rows_of

B, T = 8, 128
SIZES = {"d_model": 64, "head_dim": 64, "num_heads": 4, "d_ff": 128, "max_length": 256}
BERT = {name: getattr(bert_base(vocab_size=0), name) for name in ("positions", "token_types")}
ENCODER = ModelConfig(num_encoder_layers=2, num_decoder_layers=0, pooler=True, **BERT | SIZES)
DECODER = ModelConfig(num_decoder_layers=2, num_kv_heads=2, **SIZES)
BOTH = ModelConfig(num_encoder_layers=1, num_decoder_layers=1, **SIZES)
TASKS = {
    "classification": (
        ClassificationTask(),
        [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}],
    ),
    "multilabel": (
        MultiLabelTask(),
        [{"text": "a", "labels": ["x", "y"]}, {"text": "b", "labels": []}],
    ),
    "regression": (RegressionTask(), [{"text": "a", "score": 1.0}, {"text": "b", "score": 2.0}]),
    "token_classification": (
        TokenClassificationTask(),
        [{"tokens": ["a", "b"], "tags": ["O", "B-X"]}],
    ),
    "extractive_qa": (
        ExtractiveQATask(),
        [{"question": "q", "context": "a b", "answers": {"text": ["a"], "answer_start": [0]}}],
    ),
}


@pytest.fixture(params=pretend.DEVICES)
def platform(request):
    return request.param


@pytest.fixture(params=get_args(Dtype))
def dtype(request):
    return request.param


def check(traced, platform, dtype):
    """Checks that it uses the device's kernel for packed rows, and lowers."""
    kernels = set(pretend.kernels(traced))
    if platform == "tpu":
        assert kernels == {pretend.PALLAS}
    else:
        assert kernels == ({pretend.PALLAS} if dtype == "bfloat16" else set())
    pretend.lowered(traced, platform)


def texts():
    """A batch of texts, in the layout of `embed`."""
    array = pretend.array((B, T), jnp.int32, "batch", "length")
    return pooling.TextBatch(array, array, array)


@pytest.mark.parametrize("kind", TASKS)
def test_heads(kind, platform):
    """Losses and outputs of tasks with heads, examples packed side by side."""
    config, table = TASKS[kind]
    rows = rows_of(*table)
    task, network = opened(config, rows, model=ENCODER, length=T)
    examples = task.examples(rows)
    shape = shape_of(examples, T, encodes=False)
    with pretend.devices(platform, **pretend.EIGHT):
        spec = shape.spec(B)
        batch = {name: pretend.array(x.shape, x.dtype, *x.axes) for name, x in spec.items()}
        params = pretend.params_of(network)
        for program in (packed_loss, packed_outputs):
            traced = program.trace(task, network.model, params, batch)
            check(traced, platform, "float32")


@pytest.mark.parametrize("sizes", [{}, pretend.EIGHT], ids=["alone", "eight"])
@pytest.mark.parametrize("kind", get_args(Pooling))
def test_vectors(kind, platform, sizes):
    model = Model(resolve(ENCODER, 512))
    with pretend.devices(platform, **sizes):
        pool = pooling.PoolingSpec((kind,))
        traced = pooling.pooled_states.trace(model, pretend.params_of(model), texts(), pool)
        check(traced, platform, "float32")


@pytest.mark.parametrize("sizes", [{}, pretend.EIGHT], ids=["alone", "eight"])
def test_masks_and_logits(platform, dtype, sizes):
    with pretend.devices(platform, **sizes):
        rows = texts()
        for config in (ENCODER, DECODER, BOTH):
            model = Model(resolve(config, 512), ComputeConfig(dtype=dtype))
            params = pretend.params_of(model, dtype)
            inputs = [(rows.tokens, rows.segments)] * (1 + model.config.is_encoder_decoder)
            check(language_model.compute_logits.trace(model, params, *inputs), platform, dtype)
            if config is ENCODER:
                check(fill_mask.mask_logits.trace(model, params, rows), platform, dtype)
