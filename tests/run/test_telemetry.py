"""Figures that say what they mean: honest clocks, unknown as unknown, files that survive a kill."""

import io
import json
import math
import sys

import pytest
from rich.console import Console

from llmjax.errors import UserError
from llmjax.losses.loss import Sum
from llmjax.run.telemetry import display, sinks
from llmjax.run.telemetry.config import LogConfig, log_problems
from llmjax.run.telemetry.throughput import Throughput, peak_flops
from llmjax.step import StepMetrics


class Time:
    """Clocks that stand where they are put."""

    def __init__(self):
        self.now = self.waited = 0.0


def step(**changes):
    """A step over text of 40 bytes in 10 tokens, half of them predicted correctly."""
    numbers = {"nll": 20.0, "weight": 10.0, "bytes": 40.0, "gradient_norm": 2.0, "skipped": 0.0}
    numbers |= changes
    sums = {
        "loss": Sum(numbers["nll"], numbers["weight"]),
        "accuracy": Sum(5.0, numbers["weight"]),
        "bits_per_byte": Sum(numbers["nll"] / math.log(2), numbers["bytes"]),
    }
    return StepMetrics(
        objective=2.0,
        sums=sums,
        tokens=10.0,
        gradient_norm=numbers["gradient_norm"],
        learning_rate=0.1,
        skipped=numbers["skipped"],
    )


def make_meter(time: Time, peak: float | None = 1e4) -> Throughput:
    return Throughput(100.0, peak, lambda: time.waited, lambda: time.now)


def test_the_first_step_and_pauses_are_not_in_the_throughput():
    time = Time()
    meter = make_meter(time)
    time.now = 100.0  # compiling
    meter.add(step())
    for _ in range(4):
        time.now += 0.5
        time.waited += 0.1
        meter.add(step())
    with meter.paused():
        time.now += 1000.0  # evaluating
        time.waited += 7.0
    report = meter.report()
    assert report["tokens_per_second"] == pytest.approx(40 / 2.0)
    assert report["model_flops_per_second"] == pytest.approx(2000.0)
    assert report["mfu"] == pytest.approx(0.2)
    assert report["data_wait_share"] == pytest.approx(0.2)
    assert meter.seconds == pytest.approx(2.0)
    assert meter.seconds_per_step == pytest.approx(0.5)
    assert report["loss"] == pytest.approx(2.0)
    assert report["accuracy"] == pytest.approx(0.5)
    assert report["bits_per_byte"] == pytest.approx(100 / math.log(2) / 200)


def test_a_step_may_have_flops_of_its_own():
    time = Time()
    meter = make_meter(time)
    for flops in (900.0, None, 300.0):  # the first is not timed
        meter.add(step(), flops)
        time.now += 1.0
    report = meter.report()
    assert report["model_flops_per_second"] == pytest.approx((10 * 100 + 10 * 300) / 3)
    assert report["mfu"] == pytest.approx(4000 / 3 / 1e4)


def test_losses_are_weighted_by_tokens_since_the_last_report_and_without_skipped_steps():
    meter = make_meter(Time())
    meter.add(step(nll=1000.0))
    meter.report()
    meter.add(step(nll=10.0, weight=10.0))
    meter.add(step(nll=90.0, weight=30.0))
    meter.add(step(nll=math.nan, weight=10.0, skipped=1.0, gradient_norm=math.inf))
    report = meter.report()
    assert report["loss"] == pytest.approx(100 / 40)
    assert report["gradient_norm"] is None


def test_what_is_not_known_is_none():
    meter = make_meter(Time(), peak=None)
    meter.add(step(bytes=0.0))
    report = meter.report()
    assert report["tokens_per_second"] is None
    assert report["bits_per_byte"] is None
    assert report["mfu"] is None
    assert peak_flops() is None  # no CPU is in the table


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines_go_on_after_the_restored_step_and_drop_torn_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = sinks.JsonLines(path, 0)
    for number in (10, 20, 30):
        first.write({"step": number, "kind": "train", "loss": None})
    with open(path, "a") as file:
        file.write('{"step": 40, "ki')
    second = sinks.JsonLines(path, 20)
    second.write({"step": 30, "kind": "train", "loss": 1.0})
    second.close()
    assert [(line["step"], line["loss"]) for line in lines(path)] == [
        (10, None),
        (20, None),
        (30, 1.0),
    ]
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_json_lines_in_a_folder_that_is_missing_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.jsonl.*cannot be written"):
        sinks.JsonLines(tmp_path / "none" / "metrics.jsonl", 0)


def test_tensorboard_files_hold_the_figures(tmp_path):
    pytest.importorskip("tensorboardX")
    sink = sinks.TensorBoard(tmp_path, 0)
    sink.write({"step": 3, "kind": "train", "time": 1.0, "loss": 1.25, "mfu": None})
    sink.close()
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    assert b"train/loss" in data
    assert b"train/mfu" not in data
    assert b"train/time" not in data


@pytest.mark.parametrize(
    ("module", "make"),
    [
        ("tensorboardX", lambda path: sinks.TensorBoard(path, 0)),
        ("wandb", lambda path: sinks.WeightsAndBiases("project", path, {})),
    ],
)
def test_a_sink_whose_library_is_missing_names_its_extra(module, make, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"not installed; pip install 'llmjax\["):
        make(tmp_path)


RECORD = {"step": 20, "kind": "train", "loss": 3.21, "tokens_per_second": 12345.0, "mfu": None}


@pytest.mark.parametrize("kind", ["lines", "bar"])
def test_displays_show_figures_on_stderr_only(kind, monkeypatch, capsys):
    shown = display.make_display(kind, 0, 40, "accounting said")
    shown.advance(20, 3725.0)
    shown.write(RECORD)
    shown.write({"step": 20, "kind": "eval", "loss": 3.0, "bits_per_byte": 1.5})
    shown.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    for text in ("accounting said", "20/40", "1:02:05 left", "1.5000 bits/byte"):
        assert text in captured.err
    if kind == "lines":
        assert "loss 3.2100" in captured.err
        assert "12.3k tok/s" in captured.err
        assert "MFU n/a" in captured.err


def test_a_bar_fits_80_columns_and_keeps_the_best_result_and_the_checkpoint(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    bar = display.make_display("bar", 0, 40, "", saved=lambda: [10, 20])
    amounts = {"tokens": 1_234_567, "epoch": 0.5, "learning_rate": 1e-3, "gradient_norm": 0.7}
    bar.write(RECORD | amounts)
    for number, bits in ((10, 2.0), (20, 1.5), (30, 1.75)):
        bar.write({"step": number, "kind": "eval", "loss": bits + 1, "bits_per_byte": bits})
    bar.write({"step": 35, "kind": "eval", "loss": None, "bits_per_byte": None})
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(bar._render())
    bar.close()
    capsys.readouterr()
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 80
    for text in (
        "0:00:0",
        "1.23M tokens",
        "epoch 0.50",
        "validation bits per byte 1.7500 at step 30",
        "best bits per byte 1.5000 at step 20",
        "saved step 20",
    ):
        assert text in " ".join(shown.split()), text


def test_the_best_result_of_a_task_is_the_largest():
    validation = display.Validation()
    for number, accuracy in ((1, 0.5), (2, 0.75), (3, 0.25)):
        record = {"step": number, "kind": "eval", "loss": 1.0, "accuracy": accuracy, "examples": 9}
        validation.add(record)
    assert validation.parts() == [
        "validation accuracy 25.00 % at step 3",
        "best accuracy 75.00 % at step 2",
    ]


def test_the_display_is_a_bar_on_a_terminal_alone(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert isinstance(display.make_display("auto", 0, 1, ""), display.Lines)
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    bar = display.make_display("auto", 0, 1, "")
    bar.close()
    assert isinstance(bar, display.Bar)
    display.make_display("none", 0, 1, "").write(RECORD)


def test_whatever_a_loss_names_is_shown_by_its_name():
    shown = display.describe(RECORD | {"router_z_loss": 0.25, "epoch": 1.0, "skipped": 0})
    assert "router z loss 0.2500" in shown
    assert "epoch" not in shown


def test_numbers_are_short():
    counts = (None, 5, 12345.0, 4.86e9)
    assert [display.short_count(x) for x in counts] == ["n/a", "5", "12.3k", "4.86B"]
    assert [display.si(x) for x in (None, 5.0, 12345.0, 3.2e12)] == [
        "n/a ",
        "5 ",
        "12.3 k",
        "3.2 T",
    ]
    assert [display.duration(x) for x in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


def test_bad_values_are_named():
    assert log_problems(LogConfig()) == []
    assert len(log_problems(LogConfig(every=0, profile=-1, wandb=""))) == 3
