"""One process of several, as `llmjax train` runs it; may send itself a signal.

Usage: commanded.py CONFIG.json [SIGNAL PROCESS step|batch NUMBER]

The signal comes after that step, or before that batch of an evaluation.
"""

import itertools
import os
import signal
import sys
from pathlib import Path

from llmjax.cli.main import main
from llmjax.scoring import documents
from llmjax.training import trainer


def after_step(number: int, send) -> None:
    after = trainer.Trainer._after_step

    def sending(self, step, save):
        after(self, step, save)
        if step == number:
            self._checkpoints.wait()
            send()

    trainer.Trainer._after_step = sending


def before_batch(number: int, send) -> None:
    check, count = documents.between_batches, itertools.count(1)

    def sending():
        if next(count) == number:
            send()
        check()

    documents.between_batches = sending


if __name__ == "__main__":
    path, *sent = sys.argv[1:]
    if sent and sent[1] == os.environ["JAX_PROCESS_ID"]:
        name, _, where, number = sent
        place = {"step": after_step, "batch": before_batch}[where]
        place(int(number), lambda: os.kill(os.getpid(), getattr(signal, name)))
    config = Path(path).with_suffix(".py")
    text = Path(path).read_text()
    config.write_text(
        "from llmjax.run.config.storage import from_json\n"
        f"def config():\n    return from_json({text!r})\n"
    )
    sys.exit(main(["train", str(config)]))
