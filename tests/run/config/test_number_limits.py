"""Every number of every config, with values that nobody means."""

import dataclasses
import math
from dataclasses import replace
from typing import Any

import pytest

from llmjax.data.config import DataConfig
from llmjax.data.objectives.masked import MaskedConfig
from llmjax.data.objectives.mixture import MixtureConfig
from llmjax.data.objectives.pairs import PrefixConfig, SpanConfig
from llmjax.data.tables.files import FileTable
from llmjax.data.text.text_files import TextSource
from llmjax.data.tokenizers.config import SentencePieceConfig
from llmjax.limits import LARGEST_INTEGER, MAX_SIZES, RANGES, number_problems
from llmjax.model import rope
from llmjax.model.config import ModelConfig
from llmjax.model.latent import LatentConfig
from llmjax.model.linear import LinearConfig
from llmjax.model.lora import LoraConfig
from llmjax.model.moe_config import MoEConfig
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.muon import MuonConfig
from llmjax.optimizers.standard import AdafactorConfig, AdamWConfig, LionConfig, SgdConfig
from llmjax.run.config.build import ConfigError
from llmjax.run.config.checks import validate
from llmjax.run.config.fields import element, hints, members
from llmjax.run.config.schema import Config
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.extractive_qa import ExtractiveQATask
from llmjax.tasks.preference import PreferenceTask
from llmjax.tasks.sequence import SequenceTask
from llmjax.tasks.similarity import SimilarityTask

MODEL = ModelConfig(d_model=16, num_decoder_layers=1, num_heads=2, d_ff=8, max_length=64)
ENCODER = replace(MODEL, num_encoder_layers=1, num_decoder_layers=0)
BOTH = replace(MODEL, num_encoder_layers=1)
GOOD = Config(model=MODEL, data=DataConfig(length=64, batch_size=2))
TRAIN = (FileTable(("rows.jsonl",)),)
LONG = rope.LongRopeScaling((1.0,) * 4, (2.0,) * 4, 32)
LINEAR = LinearConfig(2, 2, 8, 8, 2, attention_layers=(0,))

# What a config's groups may hold, and where in it that is.
PARTS = (
    ("", GOOD),
    ("optimizer", replace(GOOD, optimizer=LionConfig())),
    ("optimizer", replace(GOOD, optimizer=MuonConfig())),
    ("optimizer", replace(GOOD, optimizer=SgdConfig(schedule=ScheduleConfig("wsd", 0)))),
    ("optimizer", replace(GOOD, optimizer=AdafactorConfig())),
    ("tokenizer", replace(GOOD, tokenizer=SentencePieceConfig())),
    ("data.sources", replace(GOOD, data=replace(GOOD.data, sources=(TextSource(("a",)),)))),
    ("objective", replace(GOOD, model=ENCODER, objective=MaskedConfig())),
    ("objective", replace(GOOD, model=BOTH, objective=MixtureConfig((SpanConfig(),)))),
    ("objective", replace(GOOD, model=BOTH, objective=PrefixConfig())),
    ("model.linear", replace(GOOD, model=replace(MODEL, linear=LINEAR))),
    ("model.mla", replace(GOOD, model=replace(MODEL, mla=LatentConfig(8, 8, 4, 4, 4)))),
    *(
        ("model.rope_scaling", replace(GOOD, model=replace(MODEL, rope_scaling=scaling)))
        for scaling in (
            rope.LinearScaling(2.0),
            rope.Llama3Scaling(2.0, 32),
            rope.YarnScaling(2.0, 32),
            rope.DynamicScaling(2.0, 32),
            LONG,
        )
    ),
    ("model.moe", replace(GOOD, model=replace(MODEL, moe=MoEConfig(dense_layers=(0,))))),
    ("model.lora", replace(GOOD, model=replace(MODEL, lora=LoraConfig()))),
    *(
        ("tasks", replace(GOOD, model=model, tasks=(replace(task, train=TRAIN),)))
        for model, task in (
            (ENCODER, ClassificationTask()),
            (ENCODER, ExtractiveQATask()),
            (ENCODER, SimilarityTask()),
            (BOTH, SequenceTask()),
            (MODEL, PreferenceTask()),
        )
    ),
)
NEVER = (math.nan, math.inf, -math.inf, 1e308, 10**400, 10**5000, True, "3")
NAMES = ("nan", "inf", "-inf", "float", "int", "digits", "bool", "text")
PERHAPS = (0, -1, 1, 1e-308, 2**31 - 1, None)


def numbers(value: Any, path: tuple = ()):
    """The places of a config's numbers, and of its lists of them."""
    for name, annotation in hints(type(value)).items():
        inner = getattr(value, name)
        if element(annotation) is not None:
            for index, item in enumerate(inner):
                yield from numbers(item, (*path, name, index))
        elif dataclasses.is_dataclass(inner):
            yield from numbers(inner, (*path, name))
        elif {int, float} & set(members(annotation)):
            yield (*path, name)


def put(value: Any, path: tuple, new: Any) -> Any:
    """The config with another value at that place, whatever its type."""
    if not path:
        return new
    key, *rest = path
    if isinstance(key, int):
        return tuple(put(v, tuple(rest), new) if i == key else v for i, v in enumerate(value))
    return replace(value, **{key: put(getattr(value, key), tuple(rest), new)})


NUMBERS = [
    (config, path)
    for prefix, config in PARTS
    for path in numbers(config)
    if ".".join(map(str, path)).startswith(prefix)
]


def problems(config: Config) -> tuple[str, ...]:
    try:
        validate(config)
    except ConfigError as error:
        return error.problems
    return ()


@pytest.mark.parametrize(
    "value", NEVER, ids=("nan", "inf", "-inf", "float", "int", "digits", "bool", "text")
)
def test_no_number_takes_what_is_no_number_or_beyond_all_numbers(value):
    for config, path in NUMBERS:
        name = ".".join(map(str, path))
        lines = problems(put(config, path, value))
        assert any(problem.startswith(f"{name}: ") for problem in lines), (name, lines)
        assert all(len(problem) < 400 for problem in lines)


def test_any_other_number_is_accepted_or_refused_but_never_a_fault():
    for config, path in NUMBERS:
        for value in PERHAPS:
            problems(put(config, path, value))


def test_the_configs_of_this_test_are_good_themselves():
    assert {problems(config) for _, config in PARTS} == {()}


def test_every_limit_is_of_a_field_that_exists():
    names = {path[-1] for _, path in NUMBERS}
    # Of the command line alone; and of samples, a group beside the field of its decoding.
    assert set(MAX_SIZES) - names <= {"streams"}
    assert set(RANGES) <= names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.vocab_size": 2**24 + 1}, "model.vocab_size: 16777217 is more than 16777216"),
        (
            {"model.num_decoder_layers": 10**6},
            "model.num_decoder_layers: 1000000 is more than",
        ),
        ({"steps": 2**31}, f"steps: 2147483648 is more than {LARGEST_INTEGER}"),
        ({"optimizer.learning_rate": 1e7}, "optimizer.learning_rate: 10000000.0 is not between"),
        ({"optimizer.epsilon": 1e-40}, "optimizer.epsilon: 1e-40 is not between 1e-30 and 1e+30"),
        (
            {"model.max_length": 2**20, "data.length": 2**20, "data.batch_size": 2**9},
            "data.batch_size: 512 rows of 1048576 tokens are more than the 268435456",
        ),
        (
            {"model.max_length": 2**20, "evaluation.context": 2**20, "evaluation.batch_size": 512},
            "evaluation.batch_size: 512 rows of 1048576 tokens are more than the 268435456",
        ),
        ({"model.rotary_fraction": 1e29}, "rotary_fraction must be above 0 and at most 1"),
        ({"tokenizer.character_coverage": 0.5}, "tokenizer.character_coverage: 0.5 is not in"),
        ({"tokenizer.vocab_size": 0}, "tokenizer.vocab_size: 0 is less than the 260"),
        ({"tokenizer.sample_bytes": -1}, "tokenizer.sample_bytes: -1 is not positive"),
    ],
)
def test_what_is_too_much_is_said_with_its_limit(changes, message):
    config = GOOD
    for name, value in changes.items():
        config = put(config, tuple(name.split(".")), value)
    assert any(message in problem for problem in problems(config)), problems(config)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        (
            rope.Llama3Scaling(2.0, 32, 4.0, 3.0),
            "low_frequency_factor must be from 0 up and at most",
        ),
        (rope.YarnScaling(2.0, 32, beta_fast=-1.0), "beta_fast must be positive and finite"),
        (rope.YarnScaling(2.0, 32, attention_factor=0.0), "attention_factor must be positive"),
        (replace(LONG, short_factors=(1.0, math.nan, 1.0, 1.0)), "short_factors"),
    ],
)
def test_rotary_scalings_that_divide_by_zero_are_refused(scaling, message):
    config = replace(GOOD, model=replace(MODEL, rope_scaling=scaling))
    assert any(message in problem for problem in problems(config)), problems(config)


def test_yarn_needs_a_base_that_has_a_logarithm():
    model = replace(MODEL, rope_theta=1.0, rope_scaling=rope.YarnScaling(2.0, 32))
    assert problems(replace(GOOD, model=model)) == (
        "model: rope_scaling yarn needs a rope_theta above 1, not 1.0",
    )


def test_a_share_of_what_is_not_finite_is_no_fault():
    schedule = ScheduleConfig("wsd", 0, decay_fraction=math.nan)
    (problem,) = problems(replace(GOOD, optimizer=AdamWConfig(schedule=schedule)))
    assert problem == "optimizer.schedule.decay_fraction: nan is not a finite number"


def test_the_samples_measured_are_not_negative():
    task = SequenceTask(train=TRAIN, measure=-1)
    lines = problems(replace(GOOD, model=BOTH, tasks=(task,)))
    assert lines == ("tasks.0.measure: -1 is negative",)


def test_names_go_through_lists_of_groups_and_of_numbers():
    config = replace(GOOD, data=replace(GOOD.data, sources=(TextSource(("a",), weight=1e40),)))
    assert [problem.partition(":")[0] for problem in number_problems(config)] == [
        "data.sources.0.weight"
    ]
    longest = replace(MODEL, unrotated_layers=(0, 10**12))
    assert [problem.partition(":")[0] for problem in number_problems(longest)] == [
        "unrotated_layers.1"
    ]
