"""Imported sentence-transformers folders yield the same embeddings."""

import json
import shutil

import numpy as np
import pytest
import sentence_folders
from safetensors.numpy import save_file
from sentence_folders import EXPECTED, PROMPTS, TEXTS, VARIANTS, build

from llmjax.convert.exporting import export
from llmjax.convert.importing import import_model
from llmjax.errors import UserError
from llmjax.inference.embed import embed

STORED = json.loads(EXPECTED.read_text())


@pytest.mark.parametrize("name", STORED)
def test_vectors_are_those_that_sentence_transformers_computed(name, tmp_path):
    run = import_model(build(tmp_path / "there", VARIANTS[name]), tmp_path / "run")
    vectors = embed(run, TEXTS)
    np.testing.assert_allclose(vectors, STORED[name], rtol=1e-4, atol=2e-5)
    assert vectors.dtype == np.float32
    assert embed(run, []).shape == (0, vectors.shape[1])


@pytest.mark.parametrize("name", ["all of them", "prompt not pooled by max", "several", "truncate"])
def test_they_survive_an_export(name, tmp_path):
    run = import_model(build(tmp_path / "there", VARIANTS[name]), tmp_path / "run")
    export(run, tmp_path / "out")
    again = import_model(tmp_path / "out", tmp_path / "again")
    np.testing.assert_array_equal(embed(again, TEXTS), embed(run, TEXTS))
    if pytest.importorskip("sentence_transformers"):
        vectors = sentence_folders.reference_vectors(tmp_path / "out")
        np.testing.assert_allclose(vectors, STORED[name], rtol=1e-4, atol=2e-5)


def test_sentence_transformers_does_so(tmp_path):
    pytest.importorskip("sentence_transformers")
    for number, name in enumerate(STORED):
        folder = build(tmp_path / str(number), VARIANTS[name])
        vectors = sentence_folders.reference_vectors(folder)
        np.testing.assert_allclose(vectors, STORED[name], rtol=1e-4, atol=2e-5, err_msg=name)


def test_a_prompt_may_be_chosen(tmp_path):
    run = import_model(build(tmp_path / "there", VARIANTS["prompts"]), tmp_path / "run")
    plain = embed(run, TEXTS)
    np.testing.assert_array_equal(embed(run, TEXTS, prompt="document"), plain)
    np.testing.assert_array_equal(embed(run, TEXTS, prompt=""), plain)
    prompted = embed(run, TEXTS, prompt="query")
    np.testing.assert_allclose(prompted, embed(run, [PROMPTS["query"] + text for text in TEXTS]))
    np.testing.assert_allclose(prompted, STORED["default prompt"], rtol=1e-4, atol=2e-5)
    with pytest.raises(UserError, match="query, document, long"):
        embed(run, TEXTS, prompt="other")


def test_another_pooling_stands_alone(tmp_path):
    run = import_model(build(tmp_path / "there", VARIANTS["all of them"]), tmp_path / "run")
    vectors = embed(run, TEXTS, pooling="cls", normalize=False)
    np.testing.assert_allclose(vectors, STORED["pooling cls"], rtol=1e-4, atol=2e-5)
    unit = embed(run, TEXTS, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)


def test_an_older_record_still_opens(tmp_path):
    run = import_model(build(tmp_path / "there", VARIANTS["normalize"]), tmp_path / "run")
    expected = embed(run, TEXTS)
    path = run / "origin.json"
    kept = "format source model_type architecture config generation_config pooling normalize length"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({name: values[name] for name in kept.split()}))
    np.testing.assert_array_equal(embed(run, TEXTS), expected)


DENSE = "dense Tanh"
REFUSED = {
    "another module": (DENSE, "modules.json", "models.Dense", "models.WeightedLayerPooling"),
    "custom code": (DENSE, "modules.json", "sentence_transformers.models.Dense", "own.D"),
    "a module in another place": (DENSE, "modules.json", "2_Dense", "../2_Dense"),
    "modules that are no list": (DENSE, "modules.json", "[{", '{"a": [{'),
    "no transformer": (DENSE, "modules.json", "models.Transformer", "models.BoW"),
    "another activation": (DENSE, "2_Dense/config.json", "Tanh", "Hardtanh"),
    "an activation of one's own": (DENSE, "2_Dense/config.json", "torch.nn", "os"),
    "another input": (DENSE, "2_Dense/config.json", "}", ', "module_input_name": "tokens"}'),
    "another size": (DENSE, "2_Dense/config.json", '"in_features": 8', '"in_features": 9'),
    "a pooling": ("pooling max", "1_Pooling/config.json", "max", "median"),
    "a field of pooling": ("pooling max", "1_Pooling/config.json", "}", ', "heads": 2}'),
    "truncated to nothing": ("truncate", "config_sentence_transformers.json", "3", "0"),
    "truncated to a half": ("truncate", "config_sentence_transformers.json", "3", "3.5"),
    "a prompt that is not there": (
        "default prompt",
        "config_sentence_transformers.json",
        '_name": "query"',
        '_name": "answer"',
    ),
    "prompts that are no texts": ("prompts", "config_sentence_transformers.json", '"q : "', "1"),
    "a similarity": ("prompts", "config_sentence_transformers.json", '"dot"', '"maxsim"'),
    "a length": ("short", "sentence_bert_config.json", "7", "-7"),
    "a length that is a word": ("short", "sentence_bert_config.json", "7", '"7"'),
    "a field of the encoder": ("short", "sentence_bert_config.json", "}", ', "query_length": 3}'),
    "small letters": ("lower case", "tokenizer.json", '"lowercase": true', '"lowercase": false'),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_represented_is_refused(name, tmp_path):
    variant, file, before, after = REFUSED[name]
    folder = build(tmp_path / "there", VARIANTS[variant])
    path = folder / file
    text = json.dumps(json.loads(path.read_text()))
    assert before in text
    path.write_text(text.replace(before, after, 1) if before != "}" else text[:-1] + after)
    with pytest.raises(UserError) as caught:
        import_model(folder, tmp_path / "run")
    assert len(str(caught.value)) < 500
    assert not (tmp_path / "run").exists()


def test_weights_of_a_module_are_checked(tmp_path):
    folder = build(tmp_path / "there", VARIANTS[DENSE])
    weights = folder / "2_Dense" / "model.safetensors"
    for tensors in ({}, {"linear.weight": np.zeros((5, 8), "f4"), "x": np.zeros(1, "f4")}):
        save_file(tensors, weights)
        with pytest.raises(UserError, match="unexpected or missing"):
            import_model(folder, tmp_path / "run")
    shutil.move(weights, folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled"):
        import_model(folder, tmp_path / "run")
