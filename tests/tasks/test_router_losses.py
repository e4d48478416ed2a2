"""A router's losses are part of every task's loss, and its metrics of what the task reports."""

from dataclasses import replace

import jax
import pytest
from test_extractive_qa import row

from llmjax.model.checks import resolve
from llmjax.model.model import Model
from llmjax.model.moe_config import MoEConfig
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.extractive_qa import ExtractiveQATask
from llmjax.tasks.packing import shape_of
from llmjax.tasks.preference import PreferenceTask
from llmjax.tasks.similarity import SimilarityTask
from llmjax.tasks.token_classification import TokenClassificationTask
from task_models import ENCODER, arrays_of, opened, rows_of

MOE = MoEConfig(4, 2, 16, balance_loss=0.5)
SPARSE = replace(ENCODER, num_encoder_layers=1, moe=MOE)
DECODER = replace(SPARSE, num_encoder_layers=0, num_decoder_layers=1)
CASES = {
    "classification": (
        ClassificationTask(),
        [{"text": "good", "label": "yes"}, {"text": "so bad", "label": "no"}],
        SPARSE,
    ),
    "tags": (
        TokenClassificationTask(),
        [{"tokens": ["Ada", "Lovelace", "wrote"], "tags": ["B-PER", "I-PER", "O"]}],
        SPARSE,
    ),
    "answers": (ExtractiveQATask(), [row("Was?", "Ein Café in Paris.", "Café")], SPARSE),
    "preferences": (
        PreferenceTask(),
        [{"prompt": "Sky? ", "chosen": "blue", "rejected": "green"}],
        DECODER,
    ),
    "similarity": (
        SimilarityTask(both=True),
        [{"text": "a", "pair": "b"}, {"text": "c", "pair": "d"}],
        DECODER,
    ),
}


@pytest.mark.once
@pytest.mark.parametrize(("config", "rows", "model"), CASES.values(), ids=CASES.keys())
def test_the_penalty_is_added(config, rows, model):
    rows = rows_of(*rows)
    task, network = opened(config, rows, model=model)
    examples = task.examples(rows)
    arrays = arrays_of(examples, shape_of(examples, task.context.length, encodes=False))
    params = network.init(jax.random.key(0))
    free = Model(resolve(replace(model, moe=replace(MOE, balance_loss=0.0)), 264))
    with_loss, without = (task.loss(each, params, arrays, None) for each in (network.model, free))
    balance = with_loss.sums["router_balance_loss"]
    added = 0.5 * balance.total / balance.weight * with_loss.weight
    assert float(added) > 0.1
    assert float(with_loss.objective - without.objective) == pytest.approx(float(added), rel=1e-4)
