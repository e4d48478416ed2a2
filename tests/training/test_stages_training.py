"""A run whose batches change on the way: stopped and resumed, extended, refused, reported."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import runs
import tiny
from llmjax.data.loader import batch_at
from llmjax.data.stages import StageConfig
from llmjax.data.text.corpus import prepare
from llmjax.data.text.text_files import TextSource
from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.flops import flops_per_token
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.standard import AdamWConfig
from llmjax.parallel.mesh import MeshConfig
from llmjax.reporting.format import power
from llmjax.reporting.report import report
from llmjax.run.config.overrides import Override, override
from llmjax.run.config.schema import Config
from llmjax.run.config.storage import to_json
from llmjax.run.folder import Run
from llmjax.training.train import train

PAGE = (Path(__file__).parents[2] / "docs" / "stages.md").read_text(encoding="utf-8")
STAGES = (StageConfig(3, weights=(1.0, 3.0)), StageConfig(5, length=16, batch_size=4))
"""Another mixture; then rows of twice the length, and half as many."""


def staged(folder, name="run", **changes) -> Config:
    base = runs.config(folder)
    runs.write_text(folder / "other", seed=1, sentences=200)
    other = TextSource((str(folder / "other"),), chunk_bytes=64)
    data = replace(base.data, sources=(*base.data.sources, other), length=8, stages=STAGES)
    optimizer = AdamWConfig(learning_rate=0.01, schedule=ScheduleConfig("constant", warmup_steps=0))
    return replace(base, run_dir=str(folder / name), data=data, optimizer=optimizer, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted run of 8 steps, its config, and the digests of its batches."""
    folder = tmp_path_factory.mktemp("staged")
    digests: dict[int, str] = {}
    with pytest.MonkeyPatch.context() as patch:
        runs.train_on(patch, 2)
        runs.before_step(patch, lambda step, batch: digests.update({step: runs.digest(batch)}))
        train(staged(folder))
    return folder, staged(folder), digests


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
    runs.train_on(monkeypatch, 2)


def test_the_batches_are_those_of_the_stages(whole):
    folder, config, digests = whole
    _, corpus = prepare(config.data, config.tokenizer)
    expected = [batch_at(corpus, config.data, config.seed, step) for step in range(8)]
    assert digests == {step: runs.digest(batch) for step, batch in enumerate(expected)}
    lines = runs.metrics(folder / "run")
    tokens = [int((batch["segments"] > 0).sum()) for batch in expected]
    assert [line["tokens"] for line in lines] == [sum(tokens[: n + 1]) for n in range(8)]
    shape = runs.MODEL.config
    for line in lines[1:]:
        length = 8 if line["step"] <= 5 else 16
        ratio = line["model_flops_per_second"] / line["tokens_per_second"]
        assert ratio == pytest.approx(flops_per_token(shape, length))


@pytest.mark.once
def test_stopped_in_the_last_stage_it_resumes_as_if_it_had_not_been(whole, monkeypatch):
    """Resuming in an earlier one: see below, where the rest of the stages are added."""
    folder, config, _ = whole
    stopped = replace(config, run_dir=str(folder / "stopped"))
    with monkeypatch.context() as patch:
        runs.stop_after_save(patch, 6)
        with pytest.raises(runs.Stop):
            train(stopped)
    train(stopped)
    assert tiny.equal(runs.params(folder / "stopped"), runs.params(folder / "run"))
    lines = runs.metrics(folder / "stopped"), runs.metrics(folder / "run")
    for line, expected in zip(*lines, strict=True):
        for key in ("step", "loss", "gradient_norm", "learning_rate", "tokens", "epoch"):
            assert line[key] == expected[key]


@pytest.mark.once
def test_stages_to_come_may_be_added_and_those_begun_may_not_change(whole):
    folder, config, _ = whole
    name = "extended"
    first = replace(config, run_dir=str(folder / name), steps=4)
    train(replace(first, data=replace(first.data, stages=STAGES[:1])))
    for stages, message in (
        ((), r"data\.stages\.0 from step 3: 8 rows of 8 tokens of sources .* -> absent"),
        ((StageConfig(2),), r"data\.stages\.0 from step 3: .* -> from step 2: 8 rows of 8 tokens"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            train(replace(first, data=replace(first.data, stages=stages)))
        assert "\n" not in str(caught.value)
    assert Run(folder / name).config().data.stages == STAGES[:1], "a refusal changes nothing"
    train(replace(first, steps=8))
    assert Run(folder / name).config().data.stages == STAGES
    # The schedule of the learning rate, alone, depends on the number of steps: here it is constant.
    assert tiny.equal(runs.params(folder / name), runs.params(folder / "run"))


def test_a_checkpoint_of_other_stages_is_refused_even_where_the_config_does_not_tell(whole):
    folder, config, _ = whole
    shutil.copytree(folder / "run", folder / "other-run")
    other = replace(config, run_dir=str(folder / "other-run"))
    run = Run(folder / "other-run")
    edited = replace(other, data=replace(other.data, stages=(StageConfig(2), *STAGES)))
    run.config_path.write_text(to_json(edited))
    with pytest.raises(UserError, match=r"trained with another data\.stages\.0 \(from step 3"):
        train(replace(edited, steps=9))


def test_a_stage_that_does_not_divide_over_the_devices_is_named(whole):
    folder, config, _ = whole
    config = replace(
        config,
        run_dir=str(folder / "refused"),
        mesh=MeshConfig(fsdp=2),
        optimizer=replace(config.optimizer, accumulate=2),
        data=replace(config.data, stages=(StageConfig(3, batch_size=2),)),
    )
    with pytest.raises(UserError, match=r"a part of the batch of data\.stages\.0 \(1, 8\)"):
        train(config)


@pytest.mark.once
def test_the_example_of_the_documentation_runs_and_its_report_shows_the_stages(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    runs.write_text(tmp_path / "web.txt")
    runs.write_text(tmp_path / "books.txt", seed=1)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    # As the example, but without samples, which take longest to compile.
    code = code.replace('"runs/stages",', '"runs/stages", samples=llmjax.SamplesConfig(),')
    names: dict = {}
    exec(code, names)
    run, config = names["run"], names["config"]
    assert run.metrics()["step"][-1] == 20
    tokens = dict(zip(*(run.metrics()[name] for name in ("step", "tokens")), strict=True))
    assert tokens[20] == pytest.approx(16 * 8 * 32 + 4 * 4 * 64, rel=0.02)
    page = report(run).read_text()
    assert "from step 12, 8 rows of 32 tokens (source 0: 25%, source 1: 75%)" in page
    assert "from step 16, 4 rows of 64 tokens (source 1: 100%)" in page
    assert "32 tokens, 64 from step 16" in page
    shape = resolve(config.model, 264)
    flops = [flops_per_token(shape, length) for length in (32, 64)]
    mean = (16 * 8 * 32 * flops[0] + 4 * 4 * 64 * flops[1]) / (16 * 8 * 32 + 4 * 4 * 64)
    assert f"{power(mean)} per token" in page

    listing = " ".join(re.findall(r"llmjax (train smoke .*?)\nllmjax", PAGE, re.DOTALL))
    options = [option.split() for option in listing.replace("\\\n", " ").split("--")[1:]]
    typed = override(names["smoke"], [Override(name, tuple(rest)) for name, *rest in options])
    assert typed.data.stages == config.data.stages
    assert typed.data.sources == config.data.sources
