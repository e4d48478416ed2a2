"""Impossible numbers in a config.json are refused by name, before anything is allocated."""

import json
import math

import pytest

from llmjax.convert.families.registry import FAMILIES, family_of
from llmjax.convert.hf.config import MAX_LAYERS, MAX_POSITIONS, MAX_SIZE, RANGES, HFConfig
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.storage.json_documents import parse_json


class Nothing:
    """A source without tensors."""

    def names(self):
        return []


def read(values):
    return family_of(values).read_config(values, Nothing())


LLAMA = {
    "model_type": "llama",
    "vocab_size": 264,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
T5 = {
    "model_type": "t5",
    "vocab_size": 264,
    "d_model": 8,
    "d_kv": 4,
    "d_ff": 12,
    "num_layers": 2,
    "num_heads": 2,
}


@pytest.mark.parametrize("name", [name for name in LLAMA if name != "model_type"])
@pytest.mark.parametrize(
    "value",
    [
        "0",
        "-1",
        "NaN",
        "Infinity",
        "-Infinity",
        "true",
        '"8"',
        "[]",
        "{}",
        "1e400",
        "9" * 400,
    ],
)
def test_no_number_of_llama_may_be(name, value):
    values = parse_json(json.dumps(LLAMA | {name: "?"}).replace('"?"', value), "config.json")
    with pytest.raises(UserError, match=name):
        read(values)


@pytest.mark.parametrize("name", [name for name in LLAMA if type(LLAMA[name]) is int])
@pytest.mark.parametrize("value", [2.0, 1e300, 2**31, 10**12])
def test_no_whole_number_of_llama_may_be(name, value):
    with pytest.raises(UserError, match=name):
        read(LLAMA | {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_layers", 10**6),
        ("num_decoder_layers", 10**6),
        ("num_decoder_layers", 0),
        ("d_model", 0),
        ("d_kv", 0),
        ("layer_norm_epsilon", 0),
        ("layer_norm_epsilon", math.nan),
        ("relative_attention_num_buckets", -1),
        ("n_positions", MAX_POSITIONS + 1),
    ],
)
def test_no_number_of_t5_may_be(name, value):
    with pytest.raises(UserError, match=name):
        read(T5 | {name: value})


@pytest.mark.parametrize("name", RANGES)
def test_each_line_bounds_its_field(name):
    kind = float if RANGES[name].open else int
    lowest = 0 if RANGES[name].open else RANGES[name].lowest - 1
    for value in (kind(lowest), -math.inf if kind is float else -(2**40)):
        with pytest.raises(UserError, match=name):
            HFConfig({name: value}).get(name, kind)
    highest = RANGES[name].highest
    if highest < math.inf:
        assert HFConfig({name: kind(highest)}).get(name, kind) == highest
        with pytest.raises(UserError, match=name):
            HFConfig({name: kind(highest * 2)}).get(name, kind)


def test_every_number_of_every_family_has_a_line():
    """Every integer and float field of every family has a range."""
    for family in FAMILIES.values():
        shape = ModelConfig(vocab_size=8)
        for name, value in family.write_config(shape).items():
            if type(value) in (int, float):
                assert name in RANGES, f"{family.model_type}: {name}"


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 0},
        {"rope_type": "linear", "factor": math.inf},
        {"rope_type": "linear", "factor": True},
        {"rope_type": "linear"},
        {"rope_type": "yarn", "factor": math.nan, "original_max_position_embeddings": 16},
        {"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": -16},
        {"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 1.5},
        {"rope_type": "yarn", "factor": 2, "beta_fast": 0},
        {"rope_type": "longrope", "short_factor": [0.0] * 2, "long_factor": [1.0] * 2},
        {"rope_type": "longrope", "short_factor": [[]] * 2, "long_factor": [1.0] * 2},
        {"rope_type": "longrope", "short_factor": [10**400] * 2, "long_factor": [1.0] * 2},
        {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 0, "high_freq_factor": 4},
        {"rope_type": []},
    ],
)
def test_no_scaling_may_be(scaling):
    for field in ("rope_scaling", "rope_parameters"):
        with pytest.raises(UserError):
            read(LLAMA | {field: scaling})


def test_a_base_in_rope_parameters_is_bounded_too():
    old = {"rope_type": "linear", "factor": 2.0}
    values = {name: value for name, value in LLAMA.items() if name != "rope_theta"}
    for base in (0, -1.0, math.nan, "1", []):
        for more in ({}, {"rope_scaling": old}):
            with pytest.raises(UserError, match="rope_theta"):
                read(values | more | {"rope_parameters": {"rope_theta": base}})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer_types", [[], {}]),
        ("layer_types", [1, 2]),
        ("no_rope_layers", ["a", 1]),
        ("no_rope_layers", [2, 1]),
        ("sliding_window", 0),
    ],
)
def test_no_list_of_layers_may_be(name, value):
    smollm = LLAMA | {"model_type": "smollm3"}
    del smollm["head_dim"]
    with pytest.raises(UserError, match=name):
        read(smollm | {name: value})


def test_the_largest_models_fit():
    shape = read(LLAMA | {"num_hidden_layers": MAX_LAYERS, "vocab_size": MAX_SIZE})
    assert (shape.num_decoder_layers, shape.vocab_size) == (MAX_LAYERS, MAX_SIZE)
