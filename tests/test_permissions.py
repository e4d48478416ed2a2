"""The umask decides who may read what a run leaves behind."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

import runs
from llmjax.compression.compress import compress
from llmjax.compression.decompress import decompress
from llmjax.convert.exporting import export
from llmjax.reporting.report import report
from llmjax.run.folder import Run
from llmjax.run.telemetry.config import LogConfig
from llmjax.scoring.config import EvaluationConfig
from llmjax.training.initialization import take_tokenizer
from llmjax.training.train import train

pytestmark = pytest.mark.once


@pytest.fixture(params=[0o027, 0o002])
def mask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def wrong(folder: Path, mask: int) -> dict[str, str]:
    """Paths in a folder whose permissions the umask would not have given."""
    modes = {}
    for path in [folder, *folder.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode != (0o777 if path.is_dir() else 0o666) & ~mask:
            modes[str(path.relative_to(folder.parent))] = oct(mode)
    return modes


def test_everything_in_a_run_folder_and_made_of_it_has_the_umasks_permissions(tmp_path, mask):
    config = runs.config(
        tmp_path,
        steps=3,
        evaluation=EvaluationConfig(every=1, batch_size=8, max_tokens=64),
        log=LogConfig(every=1, display="none", tensorboard=True),
    )
    run = train(replace(config, data=replace(config.data, workers=1)))
    report(run)
    out = tmp_path / "made"
    out.mkdir()
    export(run, out / "programs", to="stablehlo", platforms=("cpu",))
    compress(run, tmp_path / "text", out / "archive")
    decompress(run, out / "archive", out / "text")
    modes = wrong(run.folder, mask) | wrong(tmp_path / "cache", mask) | wrong(out, mask)
    assert modes == {}


def test_a_tokenizer_that_is_taken_over_gets_them_too(tmp_path, mask):
    config = runs.config(tmp_path)
    base = Run.create(config)
    config.tokenizer.open().save(base.tokenizer)
    for path in (*base.tokenizer.iterdir(), base.tokenizer):
        path.chmod(0o700)
    derived = replace(config, init_from=str(base.folder), run_dir=str(tmp_path / "other"))
    run = Run.create(derived)
    take_tokenizer(derived, run)
    assert wrong(run.folder, mask) == {}
