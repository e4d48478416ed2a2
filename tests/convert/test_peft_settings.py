"""Every field of PEFT's LoraConfig is interpreted like in PEFT, or refused by name."""

import json

import hf_models
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_weight_files import CONFIG, single

from llmjax.convert.importing import import_model
from llmjax.convert.peft.reading import MAX_PATTERN, PLAIN, SUPPORTED_FIELDS, import_adapter
from llmjax.errors import UserError

ADAPTER, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SETTINGS = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj", "v_proj"],
    "init_lora_weights": True,
}
Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The run of a small model."""
    folder = tmp_path_factory.mktemp("base") / "there"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": hf_models.VOCABULARY}))
    hf_models.write_tokenizer(folder)
    from test_weight_files import SHAPES

    shapes = SHAPES | {"model.embed_tokens.weight": (hf_models.VOCABULARY, 4)}
    rng = np.random.default_rng(0)
    save_file(
        {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()},
        folder / "model.safetensors",
    )
    return import_model(folder, folder.parent / "run")


@pytest.fixture
def adapter(tmp_path):
    """An adapter of two modules."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    rng = np.random.default_rng(1)
    tensors = {}
    for part in "qv":
        name = f"base_model.model.model.layers.0.self_attn.{part}_proj"
        tensors[f"{name}.lora_A.weight"] = rng.normal(size=(2, 4)).astype("f4")
        tensors[f"{name}.lora_B.weight"] = rng.normal(size=(4, 2)).astype("f4")
    save_file(tensors, folder / WEIGHTS)
    return folder


def imported(folder, base, **fields):
    (folder / ADAPTER).write_text(json.dumps(SETTINGS | fields))
    return import_adapter(folder, folder.parent / "run", base)


def refused(folder, base, *words, **fields):
    with pytest.raises(UserError) as caught:
        imported(folder, base, **fields)
    assert not (folder.parent / "run").exists()
    assert all(word in str(caught.value) for word in words), caught.value
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("how", [True, False, None, "gaussian", "Gaussian", *sorted(PLAIN)])
def test_beginnings_that_leave_the_base_alone(adapter, base, how):
    assert imported(adapter, base, init_lora_weights=how).is_dir()


@pytest.mark.parametrize(
    "how",
    ["pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "loftq", "lora_ga", "newest", 3, []],
)
def test_beginnings_that_changed_the_base(adapter, base, how):
    words = ("init_lora_weights", str(how), "path_initial_model_for_weight_conversion")
    refused(adapter, base, *words, init_lora_weights=how)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("lora_bias", True),
        ("layer_replication", [[0, 1], [0, 1]]),
        ("target_parameters", ["mlp.experts.down_proj"]),
        ("trainable_token_indices", [1, 2]),
        ("use_qalora", True),
        ("alora_invocation_tokens", [1]),
        ("arrow_config", {"top_k": 3}),
        ("use_bdlora", {"nblocks": 2}),
        ("kasa_config", {"beta": 1e-4}),
        ("velora_config", {"rank": 1}),
        ("monteclora_config", {"n": 1}),
        ("megatron_config", {"a": 1}),
        ("a_field_of_a_newer_version", "on"),
    ],
)
def test_fields_that_change_the_result(adapter, base, name, value):
    refused(adapter, base, name, **{name: value})


def test_every_field_of_peft_is_known():
    """A new version of PEFT whose defaults are not off would be refused: they are listed here."""
    peft = pytest.importorskip("peft")
    fields = peft.LoraConfig().to_dict()
    fields["peft_type"] = "LORA"
    on = {name for name, value in fields.items() if value and value != "none"}
    assert on <= SUPPORTED_FIELDS, on - SUPPORTED_FIELDS


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"target_modules": ["q_proj"]}, ["v_proj", "target_modules"]),
        ({"target_modules": r".*\.q_proj"}, ["v_proj", "target_modules"]),
        ({"exclude_modules": ["v_proj"]}, ["v_proj", "exclude_modules"]),
        ({"exclude_modules": r".*v_proj"}, ["v_proj", "exclude_modules"]),
        ({"layers_to_transform": [1]}, ["layers_to_transform"]),
        ({"layers_to_transform": 3, "layers_pattern": "layers"}, ["layers_to_transform"]),
        ({"r": 3}, ["rank 2", "3"]),
        ({"r": "2"}, ["rank 2"]),
        ({"rank_pattern": {"q_proj": 4}}, ["rank 2", "4"]),
        ({"rank_pattern": [1]}, ["rank_pattern"]),
        ({"lora_alpha": "4"}, ["lora_alpha"]),
        ({"lora_alpha": 0}, ["lora_alpha"]),
        ({"lora_alpha": float("nan")}, ["lora_alpha"]),
        ({"lora_alpha": True}, ["lora_alpha"]),
        ({"alpha_pattern": {"q_proj": []}}, ["lora_alpha"]),
        ({"alpha_pattern": {"(": 1}}, ["not a regular expression"]),
        ({"alpha_pattern": {"([a-z._]+)+!": 1}}, ["too complex"]),
        ({"alpha_pattern": {"a" * (MAX_PATTERN + 1): 1}}, ["too complex"]),
        ({"target_modules": [1]}, ["not a list of names"]),
        ({"peft_type": "IA3"}, ["IA3"]),
    ],
)
def test_settings_that_the_tensors_contradict(adapter, base, fields, words):
    refused(adapter, base, *words, **fields)


def test_patterns_that_would_match_for_ever(adapter, base):
    for pattern in ("(.*)*x", "(a|a)*$", r"((.*\.)+)+$", "(?=a*)a"):
        refused(adapter, base, "too complex", alpha_pattern={pattern: 1})
        refused(adapter, base, "too complex", target_modules=pattern)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": r".*\.(q|v)_proj"},
        {"target_modules": "all-linear"},
        {"target_modules": [Q, "v_proj"], "exclude_modules": ["k_proj"]},
        {"layers_to_transform": [0, 5], "layers_pattern": ["layers"]},
        {"layers_to_transform": 0},
        {"rank_pattern": {r"layers\.\d+\.self_attn\.q_proj": 2}, "r": 2},
        {"lora_dropout": 0.3, "fan_in_fan_out": True, "qalora_group_size": 16, "revision": "x"},
        {"eva_config": {"rho": 2.0}, "init_lora_weights": "eva", "modules_to_save": []},
    ],
)
def test_settings_that_agree_with_the_tensors(adapter, base, fields):
    assert imported(adapter, base, **fields).is_dir()


def test_a_module_that_was_trained_whole_is_named(adapter, base):
    more = {"base_model.model.lm_head.weight": np.zeros((4, 4), "f4")}
    save_file(load_file(adapter / WEIGHTS) | more, adapter / WEIGHTS)
    refused(adapter, base, "lm_head", "modules_to_save", modules_to_save=["lm_head"])


def test_only_the_adapters_own_file_is_read(adapter, base, tmp_path):
    expected = imported(adapter, base)
    expected.rename(tmp_path / "expected")
    single(adapter)
    (adapter / "model.safetensors.index.json").write_text("{}")
    save_file({"x": np.zeros(1, "f4")}, adapter / "other.safetensors")
    from llmjax.convert.params import stored_params
    from llmjax.run.folder import Run

    run = Run(imported(adapter, base))
    shape = run.config().model
    actual, expected_array = (
        stored_params(each, shape, None)["decoder"]["layers"]["attention"]["query"]["lora_a"]
        for each in (run, Run(tmp_path / "expected"))
    )
    assert np.array_equal(actual, expected_array)
    (adapter / WEIGHTS).unlink()
    (run.folder).rename(tmp_path / "again")
    refused(adapter, base, WEIGHTS)


def test_a_rank_beyond_all_use_is_refused(adapter, base):
    tensors = {
        f"base_model.model.{Q}.lora_A.weight": np.zeros((5000, 4), "f4"),
        f"base_model.model.{Q}.lora_B.weight": np.zeros((4, 5000), "f4"),
    }
    save_file(tensors, adapter / WEIGHTS)
    refused(adapter, base, "rank 5000", "4096", r=5000)
