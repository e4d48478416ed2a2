import math
from dataclasses import replace

import pytest

from llmjax.data.config import DataConfig
from llmjax.data.objectives.masked import MaskedConfig
from llmjax.data.objectives.pairs import PrefixConfig
from llmjax.data.stages import StageConfig
from llmjax.data.tables.files import FileTable
from llmjax.data.text.text_files import TextSource
from llmjax.losses.loss import LossConfig
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.standard import AdamWConfig
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.config.build import ConfigError
from llmjax.run.config.checks import validate
from llmjax.run.config.schema import Config, SamplesConfig
from llmjax.scoring.config import EvaluationConfig
from llmjax.tasks.classification import ClassificationTask

MODEL = ModelConfig(d_model=32, num_heads=2, num_decoder_layers=1, max_length=64)
GOOD = Config(model=MODEL, data=DataConfig(length=64, batch_size=8))


def problems(config: Config) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        validate(config)
    return caught.value.problems


def test_a_good_config_passes_unchanged(tmp_path):
    config = replace(GOOD, run_dir=str(tmp_path / "new" / "run"))
    assert validate(config) == config
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: 0 is not positive"),
        ({"steps": "abc"}, "steps: 'abc' is not an integer"),
        ({"seed": -1}, "seed: -1 is negative"),
        ({"seed": 1 << 40}, "seed: 1099511627776 is not below"),
        ({"model": None}, "model: None is not a section of fields"),
        ({"model": replace(MODEL, num_heads=3)}, "does not divide into 3 heads"),
        ({"compute": ComputeConfig(dropout=1.5)}, "dropout"),
        (
            {"model": replace(MODEL, num_decoder_layers=0, num_encoder_layers=1)},
            "causal needs a decoder",
        ),
        ({"data": replace(GOOD.data, length=128)}, "data.length: 128 tokens, but model.max_length"),
        (
            {"data": replace(GOOD.data, max_tokens=1000)},
            "data.max_tokens: 1000 tokens are prepared, and the run reads",
        ),
        (
            {"data": replace(GOOD.data, max_tokens=1000), "epochs": 1.0},
            "epochs: data.max_tokens ends the text",
        ),
        ({"data": replace(GOOD.data, batch_size=0)}, "data.batch_size: 0"),
        ({"data": replace(GOOD.data, sources=())}, "data.sources: give at least one"),
        ({"data": replace(GOOD.data, sources=(TextSource(()),))}, "names no paths"),
        ({"data": replace(GOOD.data, validation_fraction=0.0)}, "no validation set"),
        ({"optimizer": AdamWConfig(learning_rate=math.nan)}, "optimizer.learning_rate: nan"),
        ({"optimizer": AdamWConfig(learning_rate=-1.0)}, "optimizer.learning_rate: -1.0"),
        ({"optimizer": AdamWConfig(accumulate=3)}, "do not divide into 3 parts"),
        (
            {"optimizer": AdamWConfig(schedule=ScheduleConfig(warmup_steps=5000))},
            "warmup_steps: 5000",
        ),
        ({"optimizer": "adamw"}, "optimizer: 'adamw' is not a section of fields"),
        ({"loss": LossConfig(label_smoothing=1.0)}, "loss.label_smoothing: 1.0"),
        ({"loss": LossConfig(z_loss=math.inf)}, "loss.z_loss: inf"),
        ({"evaluation": EvaluationConfig(context=128)}, "evaluation.context: 128 tokens"),
        ({"samples": SamplesConfig(every=5, prompts=())}, "samples.prompts: empty"),
        ({"objective": MaskedConfig()}, "objective: masked needs an encoder"),
        ({"objective": PrefixConfig(), "evaluation": EvaluationConfig(stride=4)}, "overlapping"),
        (
            {
                "model": replace(MODEL, num_decoder_layers=0, num_encoder_layers=1),
                "objective": MaskedConfig(),
                "samples": SamplesConfig(every=5),
            },
            "samples.every: an encoder-only model generates no text",
        ),
        (
            {"data": replace(GOOD.data, stages=(StageConfig(5, length=128),))},
            "data.stages.0.length: 128 tokens, but model.max_length is 64",
        ),
        (
            {
                "data": replace(GOOD.data, stages=(StageConfig(5, batch_size=3),)),
                "optimizer": AdamWConfig(accumulate=2),
            },
            "data.stages.0.batch_size: 3 rows do not divide into the 2 parts",
        ),
        (
            {"data": replace(GOOD.data, stages=(StageConfig(5, sources=(1,)),))},
            "data.stages.0.sources: 1 is not an index of the 1 data.sources",
        ),
        (
            {"data": replace(GOOD.data, stages=(StageConfig(5),)), "epochs": 2.0},
            "epochs: stages begin at steps",
        ),
        (
            {
                "data": replace(GOOD.data, stages=(StageConfig(5),)),
                "tasks": (ClassificationTask(train=(FileTable(("a.tsv",)),)),),
            },
            "data.stages: tasks train on examples",
        ),
        ({"run_dir": ""}, "run_dir: '' is not a folder name"),
        ({"run_dir": "a\0b"}, "is not a folder name"),
        ({"run_dir": "http://host/x"}, "run_dir: http://host/x: is an address of an unknown kind"),
        ({"checkpoint": CheckpointConfig(local_dir="s3://b/x")}, "s3://b/x is an address; name a"),
    ],
)
def test_each_mistake_is_named(changes, message):
    assert any(message in problem for problem in problems(replace(GOOD, **changes)))


def test_a_run_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (problem,) = problems(replace(GOOD, run_dir=str(tmp_path / "file" / "run")))
    assert problem == f"run_dir: {tmp_path / 'file'} is a file, not a folder"


def test_all_mistakes_at_once():
    config = replace(
        GOOD, steps=-1, seed=-1, data=replace(GOOD.data, length=0), loss=LossConfig(z_loss=-1.0)
    )
    assert len(problems(config)) >= 4


def test_wrong_types_are_told_before_any_value_is_compared():
    config = replace(GOOD, steps="many", seed=None, data=replace(GOOD.data, length="x"))
    assert len(problems(config)) == 3
