"""One process of several, as `llmjax train` runs it; may send itself a signal.

Usage: commanded.py CONFIG.json [SIGNAL PROCESS step|batch|delay NUMBER]

The signal comes after that step, once all checkpoints are written; or before that batch of an
evaluation. With delay there is none: each batch comes so many milliseconds later.
"""

import itertools
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import runs
from llmjax.cli.main import main
from llmjax.run.config.storage import from_json
from llmjax.run.folder import Run
from llmjax.scoring import documents


def after_step(config, number: int, send) -> None:
    saved = max(range(0, number + 1, config.checkpoint.every))

    def sending(step, _):
        if step == number:
            while saved not in Run(Path(config.run_dir)).steps():
                time.sleep(0.01)
            send()

    runs.before_step(pytest.MonkeyPatch(), sending)


def before_batch(config, number: int, send) -> None:
    check, count = documents.between_batches, itertools.count(1)

    def sending():
        if next(count) == number:
            send()
        check()

    documents.between_batches = sending


def delay(config, number: int, send) -> None:
    runs.before_step(pytest.MonkeyPatch(), lambda *_: time.sleep(number / 1000))


if __name__ == "__main__":
    path, *options = sys.argv[1:]
    text = Path(path).read_text()
    if options and options[1] == os.environ["JAX_PROCESS_ID"]:
        name, _, moment, number = options
        prepare = {"step": after_step, "batch": before_batch, "delay": delay}[moment]
        send = partial(os.kill, os.getpid(), getattr(signal, name))
        prepare(from_json(text), int(number), send)
    config = Path(path).with_suffix(".py")
    config.write_text(
        "from llmjax.run.config.storage import from_json\n"
        f"def config():\n    return from_json({text!r})\n"
    )
    sys.exit(main(["train", str(config)]))
