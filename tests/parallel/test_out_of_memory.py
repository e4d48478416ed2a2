"""Running out of memory is reported in one line: how much was needed, and how to need less."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import runs
from llmjax.cli.main import find_command, main
from llmjax.cli.registry import COMMANDS
from llmjax.errors import UserError
from llmjax.parallel.memory import FEWER, TRAINING, enough_memory, memory_mistake
from llmjax.training import steps
from llmjax.training.train import train

HUGE = 1 << 45  # float32: 128 TiB

# Messages of XLA on GPUs, TPUs and CPUs, of this and earlier versions.
MESSAGES = {
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 7406166528 bytes.": "6.898 GiB",
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3743729664 bytes.\n"
    "BufferAssignment OOM Debugging.\nBufferAssignment stats:\n"
    "             parameter allocation:  372.76MiB": "3.487 GiB",
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 24.00GiB.": "24.00GiB",
    "RESOURCE_EXHAUSTED: Failed to allocate request for 176.00MiB (184549376B) on device "
    "ordinal 0": "176.00MiB",
    "Resource exhausted: Failed to allocate request for 32.00MiB (33554432B) on device ordinal 0": (
        "32.00MiB"
    ),
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    "Used 21.95G of 15.48G hbm.\n Exceeded hbm capacity by 6.47G.\n\nTotal hbm usage >= 22.47G:": (
        "21.95G of hbm needed, 15.48G available"
    ),
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.2G of 15.7G hbm.": (
        "17.2G of hbm needed, 15.7G available"
    ),
    "RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 1.02G. That was "
    "not possible. There are 500.00M free.; (0x0x0_HBM0)": "1.02G",
    "RESOURCE_EXHAUSTED: Attempting to reserve 9.21G at the bottom of memory. That was not "
    "possible. There are 8.50G free, 0B reserved, and 7.90G reservable. Failed to "
    "allocate.": "9.21G",
    "RESOURCE_EXHAUSTED: Out of memory allocating 28800000000 bytes.": "26.82 GiB",
}


@pytest.mark.parametrize(("text", "shortage"), MESSAGES.items())
def test_the_shortage_is_read_from_the_message(text, shortage):
    mistake = memory_mistake(RuntimeError(text), TRAINING)
    assert shortage in str(mistake)
    assert str(mistake).startswith("the device's memory: ")
    assert mistake.fix == TRAINING


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("RESOURCE_EXHAUSTED: Received message larger than max (5 vs. 4)"),
        RuntimeError("RESOURCE_EXHAUSTED: could not allocate: No space left on device"),
        RuntimeError("INVALID_ARGUMENT: shapes differ"),
        ValueError("Out of memory"),
    ],
)
def test_other_errors_are_left_alone(error):
    assert memory_mistake(error, FEWER) is None
    with pytest.raises(type(error)), enough_memory(FEWER):
        raise error


def test_a_device_that_runs_out():
    with pytest.raises(UserError, match="GiB could not be allocated"), enough_memory(FEWER):
        jnp.ones((HUGE,), jnp.float32).block_until_ready()


def test_a_machine_that_runs_out():
    message = r"this machine's memory: 256\. TiB for an array with shape .* could not be allocated"
    with pytest.raises(UserError, match=message), enough_memory(FEWER):
        np.ones(HUGE)


def test_training_that_does_not_fit_says_how_to_need_less_and_leaves_nothing(tmp_path, monkeypatch):
    def too_large(*_, **__):
        def step(state, batch, frozen):
            return state, {"loss": jnp.ones((HUGE,), jnp.float32).block_until_ready()}

        return step

    monkeypatch.setattr(steps, "make_train_step", too_large)
    with pytest.raises(UserError) as caught:
        train(runs.config(tmp_path))
    advice = ("--optimizer.accumulate", "--compute.remat full", "--mesh")
    for part in ("GiB could not be allocated", *advice):
        assert part in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argv", "error", "message"),
    [
        (("evaluate", "run"), jax.errors.JaxRuntimeError(next(iter(MESSAGES))), "--batch-size"),
        (("generate", "run"), MemoryError(), "this machine's memory: there is not enough"),
        (("import", "model", "run"), MemoryError(), "--dtype bfloat16, read with more devices"),
    ],
)
def test_every_command_says_so_in_one_line(argv, error, message, monkeypatch, capsys):
    def failing(_):
        raise error

    module, _, name = COMMANDS[argv[0]].target.partition(":")
    monkeypatch.setattr(f"{module}.{name}", replace(find_command(argv[0]), run=failing))
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("llmjax: error: ")
    assert message in line
