"""Run folders for the report's tests."""

from pathlib import Path

import pytest
from run_folders import ENVIRONMENT, SAMPLES, TEXT, RunMaker, demo_metrics


@pytest.fixture
def maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunMaker:
    """Makes a run folder named "demo", whose validation text is TEXT."""
    monkeypatch.setattr("llmjax.reporting.report.validation_text", lambda run, config: TEXT)
    return RunMaker(tmp_path / "demo")


@pytest.fixture
def demo(maker: RunMaker) -> Path:
    """A finished run, the way quickstart leaves one."""
    return maker.write(demo_metrics(), SAMPLES, ENVIRONMENT)
