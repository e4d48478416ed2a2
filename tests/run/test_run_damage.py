"""A run whose files decide results: whatever is flipped in one is refused by name, or changes
nothing."""

import random
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.data.tokenizers.folder import add_chat_template
from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.run.checkpoint.checkpoints import save_params
from llmjax.run.checkpoint.progress import read_progress
from llmjax.run.folder import Run
from llmjax.run.origin import Origin, read_origin, write_origin
from llmjax.run.parameters import read_parameters, resolve_step, run_network
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.config import name_of
from llmjax.tasks.metadata import read_metadata
from task_runs import tasked

ROWS = [{"text": text, "label": label} for text, label in (("fine", "good"), ("poor", "bad"))]


def contents(run: Run):
    """All that decides what the run's model answers, but its parameters."""
    config = run.config()
    tokenizer = load_tokenizer(run.tokenizer)
    metadata = [
        one.to_dict() for one in read_metadata(run.tasks, [name_of(task) for task in config.tasks])
    ]
    origin = read_origin(run.folder)
    step = resolve_step(run, config, None)
    return config, tokenizer.fingerprint, tokenizer.chat_template, metadata, origin, step


def parameters(run: Run):
    config, tokenizer = run.config(), load_tokenizer(run.tokenizer)
    shape = resolve(config.model, tokenizer.vocab_size)
    network = run_network(run, config, tokenizer, shape)
    step = resolve_step(run, config, None)
    params = read_parameters(run, step, network.abstract_params())
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of a classifier, one part of whose parameters is frozen."""
    run = tasked(tmp_path_factory.mktemp("damage"), ClassificationTask(), ROWS)
    add_chat_template(run.tokenizer, "{{ messages }}")
    write_origin(run.folder, Origin(format="hf", source="a/b", pooling="cls", length=12))
    config, tokenizer = run.config(), load_tokenizer(run.tokenizer)
    network = run_network(run, config, tokenizer, resolve(config.model, tokenizer.vocab_size))
    params = read_parameters(run, 0, network.abstract_params())
    name = sorted(params)[0]
    frozen = {name: params.pop(name)}
    shutil.rmtree(run.checkpoints)
    save_params(run.frozen, frozen)
    save_params(run.checkpoints, params)
    return run


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flipped(path: Path, count: int):
    """Flips a bit of the file, `count` times a different one; the file is as before at the end."""
    content, generator = path.read_bytes(), random.Random(str(path.name))
    try:
        for index in generator.sample(range(len(content)), min(count, len(content))):
            broken = bytearray(content)
            broken[index] ^= 1 << generator.randrange(8)
            path.write_bytes(broken)
            yield index
    finally:
        path.write_bytes(content)


def test_no_flipped_bit_of_a_small_file_is_used(run):
    expected = contents(run)
    small = [path for path in files(run.folder) if path.name != ".lock"]
    small = [path for path in small if not {"checkpoints", "frozen"} & set(path.parts)]
    names = {path.name for path in small}
    assert {"config.json", "tasks.json", "origin.json", "chat_template.jinja"} <= names
    for path in [*small, run.checkpoints / "0" / "checksums.json"]:
        for index in flipped(path, 60):
            try:
                result = contents(run)
            except UserError as error:
                names_in_message = (path.name, str(path.parent), str(run.checkpoints))
                assert any(name in str(error) for name in names_in_message)  # noqa: PT017
            else:
                assert result == expected, f"byte {index} of {path}"


def test_no_flipped_bit_of_parameters_is_used(run):
    expected = parameters(run)
    for path in [*files(run.checkpoints), *files(run.frozen)]:
        for index in flipped(path, 2):
            try:
                params = parameters(run)
            except UserError as error:
                assert str(run.folder) in str(error)  # noqa: PT017 (either is fine)
            else:
                assert params.keys() == expected.keys()
                for name, leaf in params.items():
                    assert np.array_equal(leaf, expected[name]), f"byte {index} of {path}"


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null"])
def test_an_empty_list_of_checksums_is_damage(run, content):
    for folder in (run.checkpoints, run.frozen):
        path = folder / "0" / "checksums.json"
        original = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"is damaged|no complete checkpoint"):
            parameters(run)
        path.write_bytes(original)
    assert parameters(run)


def test_a_position_that_was_changed_does_not_choose_another_checkpoint(run):
    path = run.checkpoints / "0" / "position.json"
    original = path.read_text()
    path.write_text(original.replace('"heldout_loss": null', '"heldout_loss": 0.1'))
    with pytest.raises(UserError, match=r"position\.json: was changed after it was written"):
        read_progress(run.checkpoints, 0)
    path.write_text(original)
