"""The smallest of everything: it trains, or is refused before anything is computed."""

from dataclasses import replace
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import runs
import tiny
from llmjax.convert.exporting import export
from llmjax.data.objectives.pairs import PrefixConfig
from llmjax.data.tables.table import Row
from llmjax.data.text.text_files import TextSource
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.errors import UserError
from llmjax.evaluation.evaluate import evaluate
from llmjax.evaluation.predict import predict
from llmjax.losses.token_loss import token_loss
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.muon import MuonConfig
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.optimizers.standard import AdamWConfig
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.run.config.schema import SamplesConfig
from llmjax.scoring.config import EvaluationConfig
from llmjax.state import abstract_state, make_state
from llmjax.step import make_train_step
from llmjax.tasks.chat import ChatTask
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.examples import encode, trainable
from llmjax.tasks.extractive_qa import ExtractiveQATask
from llmjax.tasks.regression import RegressionTask
from llmjax.tasks.sequence import SequenceTask
from llmjax.tasks.similarity import SimilarityTask
from llmjax.tasks.task import TaskContext
from llmjax.tasks.token_classification import TokenClassificationTask
from llmjax.training.session import check_memory
from llmjax.training.train import train
from task_runs import DECODER, ENCODER, ENCODER_DECODER, tasked

SMALLEST = ModelConfig(
    vocab_size=3,
    d_model=2,
    num_heads=1,
    num_decoder_layers=1,
    d_ff=1,
    max_length=2,
    window=1,
    gated=False,
)
NOW = ScheduleConfig("constant", warmup_steps=0)


def one_device():
    return make_mesh(MeshConfig(), jax.devices()[:1])


# Rows of one token are refused in a config, for newer versions of JAX do not differentiate them.
SHORTEST = [1, 2] if version("jax").startswith("0.10.") else [2]


@pytest.mark.once
@pytest.mark.parametrize("length", SHORTEST)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"positions": "learned", "norm": "layernorm"},
        {"d_model": 3, "num_heads": 3, "num_kv_heads": 1, "positions": "relative"},
        {"num_encoder_layers": 1, "num_decoder_layers": 0},
        {"num_encoder_layers": 1, "qk_norm": True},
    ],
    ids=["decoder", "learned positions", "one key head", "encoder", "both"],
)
def test_the_smallest_models_learn_from_the_shortest_rows(changes, length):
    config = resolve(replace(SMALLEST, **changes), 3)
    model, optimizer = Model(config), AdamWConfig(learning_rate=0.1, schedule=NOW)
    ones = np.ones((1, length), np.int32)
    batch = {
        "inputs": ones,
        "targets": 2 * ones,
        "weights": ones.astype(np.float32),
        "segments": ones,
        "positions": np.arange(length, dtype=np.int32)[None],
    }
    if config.is_encoder_decoder:
        batch |= {"encoder_tokens": ones, "encoder_segments": ones, "encoder_positions": ones - 1}
    with jax.set_mesh(one_device()):
        chosen = make_optimizer(optimizer, 2, model.logical_axes())
        step = make_train_step(
            lambda params, batch, key: token_loss(model, params, batch), chosen, seed=0
        )
        state, losses = make_state(model, chosen, 0, one_device()), []
        for _ in range(2):
            state, metrics = step(state, jax.tree.map(jnp.asarray, batch))
            losses.append(float(metrics.objective))
    assert np.isfinite(losses).all()
    assert losses[1] != losses[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 1}, "data.length: 1 is less than 2, the shortest rows"),
        ({"context": 1}, "objective prefix: finds nothing to predict in validation rows of 1"),
    ],
)
def test_an_objective_that_hides_nothing_is_refused_before_training(tmp_path, changes, message):
    base = runs.config(tmp_path, objective=PrefixConfig())
    data = replace(base.data, length=changes.get("length", base.data.length))
    evaluation = EvaluationConfig(every=0, context=changes.get("context"))
    with pytest.raises(UserError, match=message):
        train(replace(base, data=data, evaluation=evaluation))
    assert not any((tmp_path / "run").glob("checkpoints/*"))


def test_prompts_of_samples_that_do_not_fit_are_refused_before_training(tmp_path):
    samples = SamplesConfig(every=4, prompts=("", "The old cat sees the bird"))
    with pytest.raises(
        UserError, match="prompt 2 of 26 tokens: is longer than the model's context"
    ):
        train(runs.config(tmp_path, samples=samples))
    assert not any((tmp_path / "run").glob("checkpoints/*"))


@pytest.mark.once
@pytest.mark.parametrize("devices", [1, 2])
def test_parts_of_a_batch_may_be_one_row_on_each_device(devices):
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    batch = tiny.batch(0, mesh, 4 * devices)
    with jax.set_mesh(mesh):
        state, step = tiny.start(mesh, accumulate=4)
        full = jax.jit(tiny.loss)(state.params, batch, None)
        loss = step(state, batch)[1].objective
        assert float(loss) == pytest.approx(float(full.objective / full.weight), rel=1e-5)


@pytest.mark.parametrize("number", [1e19, -1e300])
def test_numbers_whose_squares_overflow_are_refused(number):
    with pytest.raises(UserError, match=r"row 0, column 'score': .* is beyond 1e\+18; scale"):
        task_in_rows(RegressionTask(), ENCODER, [{"text": "a", "score": number}], 8)


def test_a_batch_of_one_row_over_several_devices_names_batch_and_mesh(tmp_path):
    base = runs.config(tmp_path)
    data = replace(base.data, batch_size=1)
    with pytest.raises(UserError, match=r"the batch \(1, 16\): its batch dimension of 1 .*fsdp=8"):
        train(replace(base, data=data))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no text"),
        ("x", "the validation set is empty: none of 1 documents"),
    ],
)
def test_texts_of_nothing_are_refused(tmp_path, text, message):
    (tmp_path / "tiny.txt").write_text(text)
    base = runs.config(tmp_path)
    data = replace(base.data, sources=(TextSource((str(tmp_path / "tiny.txt"),)),))
    with pytest.raises(UserError, match=message):
        train(replace(base, data=data))


@pytest.mark.parametrize("size", [2**17, 2**20])
def test_what_no_machine_can_hold_is_refused_before_it_is_made(size):
    config = replace(SMALLEST, d_model=size, d_ff=None, head_dim=2, max_length=2)
    model = Model(resolve(config, 3))
    mesh = one_device()
    optimizer = make_optimizer(MuonConfig(schedule=NOW), 2, model.logical_axes())
    with pytest.raises(UserError, match="parameters, gradients and the optimizer's state take"):
        check_memory(abstract_state(model, optimizer, mesh), mesh)


READERS = {
    "classification": (ClassificationTask(), ENCODER, {"text": "ab", "label": "x"}, 2),
    "token_classification": (TokenClassificationTask(), ENCODER, {"tokens": "a", "tags": "O"}, 2),
    "extractive_qa": (
        ExtractiveQATask(),
        ENCODER,
        {"question": "a", "context": "b", "answers": {"text": ["b"], "answer_start": [0]}},
        4,
    ),
    "sequence": (SequenceTask(), ENCODER_DECODER, {"source": "a", "target": "b"}, 2),
    "similarity": (SimilarityTask(), ENCODER, {"text": "a", "pair": "b"}, 4),
}


def task_in_rows(task, model, rows, length):
    """The task in rows of `length` tokens, and the rows as read from a table."""
    tokenizer = BytesTokenizer()
    context = TaskContext(tokenizer, resolve(model, tokenizer.vocab_size), length)
    table_rows = [Row(f"row {number}", row) for number, row in enumerate(rows)]
    extra = [Row("another", {"label": "y", "tags": "X", "tokens": "b", "text": "c"})]
    needs_labels = isinstance(task, (ClassificationTask, TokenClassificationTask))
    return task.open(context, task.find_metadata(table_rows + extra * needs_labels)), table_rows


@pytest.mark.parametrize("kind", READERS)
def test_rows_without_room_for_the_special_tokens_are_refused(kind):
    config, model, row, _ = READERS[kind]
    task, rows = task_in_rows(config, model, [row], 1)
    with pytest.raises(UserError, match=rf"task {kind}: an example needs at least \d tokens, more"):
        encode(task, rows, "learn from")


@pytest.mark.parametrize("kind", READERS)
def test_rows_with_just_the_room_for_them_are_read(kind):
    config, model, row, minimum = READERS[kind]
    task, rows = task_in_rows(config, model, [row], minimum)
    (example, *_) = encode(task, rows, "learn from")
    assert max(example.length, example.source_length) <= minimum


def test_conversations_cut_before_the_assistant_speaks_are_refused():
    words = [{"role": "user", "content": "h"}, {"role": "assistant", "content": "i"}]
    task, rows = task_in_rows(ChatTask(), DECODER, [{"messages": words}], 1)
    examples = encode(task, rows, "learn from")
    with pytest.raises(UserError, match="1 of 1 examples have no target within 1 tokens"):
        trainable(task, rows, examples)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_no_rows_is_not_the_batch_of_the_run(tmp_path, size):
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    run = tasked(tmp_path, ClassificationTask(), rows)
    with pytest.raises(UserError, match=f"batch_size {size}: is not positive"):
        evaluate(run.folder, batch_size=size)
    with pytest.raises(UserError, match=f"batch_size {size}: is not positive"):
        next(predict(run.folder, text=("a",), batch_size=size))
    with pytest.raises(UserError, match="max_shard_bytes 0: is not positive"):
        export(run.folder, tmp_path / "out", max_shard_bytes=0)
    assert not (tmp_path / "out").exists()


def test_a_width_of_one_number_is_refused():
    with pytest.raises(UserError, match="d_model 1 is a single number, which the norms make"):
        Model(resolve(replace(SMALLEST, d_model=1), 3))
