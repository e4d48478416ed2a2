"""Exported adapters name their base model only if it is an unmodified import."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import untrained
from llmjax.convert.exporting import export, summary
from llmjax.convert.importing import import_model
from llmjax.convert.peft.reading import import_adapter
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.model.checks import resolve
from llmjax.model.lora import LoraConfig
from llmjax.model.model import Model
from llmjax.run.checkpoint.checkpoints import save_params
from llmjax.run.config.storage import to_json
from llmjax.run.folder import Run
from llmjax.run.origin import Origin, read_origin, write_origin
from task_runs import DECODER, begun

HUB = Origin(format="hf", source="someone/model", model_type="llama")


@pytest.fixture
def base(tmp_path) -> Path:
    """An untrained import."""
    run = begun(tmp_path / "base", DECODER)
    write_origin(run.folder, HUB)
    return run.folder


def adapted(folder: Path, init_from: Path | None, origin: Origin | None = HUB) -> Path:
    """A run of the same model with adapters, as after training."""
    run = begun(folder, DECODER)
    lora = LoraConfig(rank=2, targets=("query",))
    begin = None if init_from is None else str(init_from)
    config = replace(run.config(), model=replace(DECODER, lora=lora), init_from=begin)
    run.config_path.write_text(to_json(config))
    if origin is not None:
        write_origin(folder, origin)
    shutil.rmtree(run.checkpoints)
    model = Model(resolve(config.model, BytesTokenizer().vocab_size))
    save_params(run.checkpoints, untrained.drawn(model, 1))
    return folder


def named(run: Path) -> str | None:
    """The base model named by exported adapters."""
    out = export(run, run.with_name(f"{run.name}-peft"), to="peft")
    name: str | None = json.loads((out / "adapter_config.json").read_text())[
        "base_model_name_or_path"
    ]
    shutil.rmtree(out)
    return name


def test_adapters_on_a_model_as_it_was_published_name_it(base, tmp_path, caplog):
    first = adapted(tmp_path / "first", base)
    assert named(first) == HUB.source
    out = export(first, tmp_path / "peft", to="peft")
    again = import_adapter(out, tmp_path / "again", base)
    assert named(again) == HUB.source
    assert not caplog.records


def test_adapters_on_a_model_with_others_merged_name_none(base, tmp_path, caplog):
    first = adapted(tmp_path / "first", base)
    second = adapted(tmp_path / "second", first)
    assert named(second) is None
    assert f"{first} is not an unmodified published model" in caplog.text
    assert f"llmjax export {first} FOLDER --to hf" in caplog.text


def test_adapters_on_a_model_that_was_trained_or_is_gone_name_none(base, tmp_path):
    first = adapted(tmp_path / "first", base)
    out = export(first, tmp_path / "peft", to="peft")
    shutil.copytree(base / "checkpoints" / "0", base / "checkpoints" / "9")
    assert named(first) is None
    assert named(import_adapter(out, tmp_path / "again", base)) is None
    shutil.rmtree(base)
    assert named(first) is None


@pytest.mark.parametrize(
    ("source", "form"), [("sample:x", "hf"), ("a/b.gguf", "gguf"), ("a/b@main", "hf")]
)
def test_what_is_no_name_for_peft_is_not_written(base, tmp_path, caplog, source, form):
    write_origin(base, replace(HUB, source=source, format=form))
    run = adapted(tmp_path / "run", base, replace(HUB, source=source, format=form))
    assert named(run) is None
    assert f"PEFT cannot load {source}" in caplog.text
    out = export(run, tmp_path / "out", to="peft")
    assert "next" not in summary(out, "peft"), "no command can load it by name"


def test_a_model_that_was_trained_here_has_no_name(tmp_path):
    alone = begun(tmp_path / "base", DECODER)
    assert named(adapted(tmp_path / "run", alone.folder, None)) is None
    assert not Run(tmp_path / "run").folder.joinpath("origin.json").exists()


def test_the_command_that_loads_them_runs_as_printed(tmp_path):
    pytest.importorskip("peft")
    published = export(begun(tmp_path / "first", DECODER).folder, tmp_path / "published")
    base = import_model(published, tmp_path / "base")
    run = Run(adapted(tmp_path / "run", base, read_origin(base)))
    out = export(run.folder, tmp_path / "peft's", to="peft")
    printed = shlex.split(summary(out, "peft")["next"])
    assert printed[:2] == ["python", "-c"]
    exec(printed[2], namespace := {})
    assert namespace["peft"].__name__ == "peft"
