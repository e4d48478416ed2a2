"""Stored logits of Transformers for three tiny models, for tests without it installed."""

import hf_golden
import jax
import numpy as np
import pytest

from llmjax.convert.families.registry import family_of
from llmjax.convert.hf.config import read_object
from llmjax.convert.hf.mapping import BoundTable, read_params
from llmjax.convert.hf.safetensors import TensorFiles, open_folder, read_header
from llmjax.model.model import Model


@pytest.mark.parametrize("name", hf_golden.MODELS)
def test_logits_are_those_that_transformers_computed(name, tmp_path):
    folder = hf_golden.FOLDER / name
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    tensors, values = open_folder(tmp_path), read_object(folder / "config.json")
    family = family_of(values)
    model = Model(family.read_config(values, tensors))
    params = read_params(tensors, BoundTable(family.table, model))
    expected = TensorFiles(read_header(folder / "expected.st"))
    tokens, logits = expected.read("tokens").astype(np.int32), expected.read("logits")
    if name == "t5":
        actual = model.apply(params, tokens[:, ::-1], encoder_tokens=tokens)
    else:
        actual = model.apply(params, tokens)
    assert np.abs(np.asarray(actual) - logits).max() < 1e-4 * np.abs(logits).max()


EARLY_BERT = (
    ("LayerNorm.weight", "LayerNorm.gamma"),
    ("LayerNorm.bias", "LayerNorm.beta"),
    ("bert.", ""),
)


def test_early_and_bare_names_are_the_same_tensors(tmp_path):
    files = read_header(hf_golden.FOLDER / "bert" / "model.safetensors")
    early, any_location = {}, next(iter(files.values()))
    for name, location in files.items():
        for now, then in EARLY_BERT:
            name = name.replace(now, then) if "cls." not in name or now != "bert." else name
        early[name] = location
    unused = ("embeddings.position_ids", "cls.seq_relationship.weight")
    early |= dict.fromkeys(unused, any_location)
    values = read_object(hf_golden.FOLDER / "bert" / "config.json")
    family, sources = family_of(values), (TensorFiles(files), TensorFiles(early))
    assert files.keys() != early.keys()
    trees = []
    for source in sources:
        bound = BoundTable(family.table, Model(family.read_config(values, source)))
        trees.append(read_params(source, bound))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), *trees))


def test_the_stored_models_are_small():
    assert sum(path.stat().st_size for path in hf_golden.FOLDER.rglob("*.*")) < 60_000
