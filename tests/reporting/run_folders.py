"""Run folders made by hand: what a training leaves behind, without the training."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmjax.data.config import DataConfig
from llmjax.data.tokenizers.config import BytesConfig
from llmjax.model.config import ModelConfig
from llmjax.run.config.schema import Config
from llmjax.run.config.storage import to_json

TEXT = b"Return a new list containing the items of the iterable.\n" * 40
START = 1_760_000_000.0


def train_line(step: int, steps: int = 1200, seed: int = 0) -> dict[str, Any]:
    """A plausible line of metrics.jsonl."""
    noise = random.Random(10 * step + seed)
    bits = 1.9 + 6.2 * math.exp(-((step / 60) ** 0.5)) + 0.05 * noise.gauss(0, 1)
    warm = min(1.0, step / 100)
    return {
        "step": step,
        "kind": "train",
        "time": START + 5 + 0.19 * step,
        "loss": bits * 2.2,
        "bits_per_byte": bits,
        "learning_rate": 1e-3 * warm * (0.55 + 0.45 * math.cos(math.pi * step / steps)),
        "gradient_norm": 0.4 + 3 * math.exp(-step / 50) + 0.1 * abs(noise.gauss(0, 1)),
        "tokens_per_second": 21_500 + 700 * noise.gauss(0, 1) if step > 1 else 4_000,
        "model_flops_per_second": 6.6e11,
        "mfu": None,
        "data_wait_share": 0.004 + 0.002 * noise.random(),
        "device_memory_bytes": None,
        "skipped": 0,
        "tokens": 4096 * step,
    }


def eval_line(step: int) -> dict[str, Any]:
    bits = 1.93 + 6.2 * math.exp(-((step / 60) ** 0.5))
    return {
        "step": step,
        "kind": "eval",
        "time": START + 5 + 0.19 * step,
        "loss": bits * 2.25,
        "bits_per_byte": bits,
    }


@dataclass(frozen=True)
class RunMaker:
    """Writes a run folder; None leaves a file out."""

    folder: Path
    config: Config = field(
        default_factory=lambda: Config(
            steps=1200,
            model=ModelConfig(d_model=256, num_decoder_layers=6, num_heads=4, vocab_size=4096),
            tokenizer=BytesConfig(),
            data=DataConfig(batch_size=16, length=256),
        )
    )

    def write(
        self,
        metrics: Sequence[Any] | None = None,
        samples: Sequence[Any] | None = None,
        environment: dict[str, Any] | None = None,
    ) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = replace(self.config, run_dir=str(self.folder))
        (self.folder / "config.json").write_text(to_json(config), encoding="utf-8")
        for name, lines in (("metrics", metrics), ("samples", samples)):
            if lines is not None:
                text = "".join(
                    (line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines
                )
                (self.folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        if environment is not None:
            (self.folder / "environment.json").write_text(json.dumps(environment))
        return self.folder


ENVIRONMENT = {
    "model": {"parameters": 5_247_232, "flops_per_token": 30_801_920.0},
    "data": {
        "train_documents": 8_211,
        "train_bytes": 2_083_112,
        "train_tokens": 611_002,
        "heldout_documents": 431,
        "heldout_bytes": 109_120,
        "heldout_tokens": 32_100,
    },
    "sessions": [
        {
            "started": START,
            "command": "llmjax train configs/quickstart.py --steps 1200",
            "git_commit": "4f1c8e0a9f6d2b7c3e5a1d0b8c7f6e5d4c3b2a19",
            "versions": {"python": "3.11.7", "llmjax": "0.1.0", "jax": "0.10.2", "flax": "0.12.8"},
            "machine": {
                "system": "Linux 6.1.0 x86_64",
                "processor": "AMD EPYC 9B14",
                "cores": 2,
                "memory_bytes": 8_000_000_000,
            },
            "devices": {"platform": "cpu", "kind": "cpu", "count": 1, "processes": 1},
        }
    ],
}

SAMPLES = [
    {"step": step, "prompt": prompt, "text": text}
    for step, ends in {
        0: ("qqZ\x00\x1b ;;e the tt", "()))  __ e"),
        300: ("value of the the object is", "list of the string in the"),
        1200: (
            'with" statement is used to wrap the execution of a block with\nmethods defined by a '
            "context manager.",
            "a new list containing the items of *iterable*.",
        ),
    }.items()
    for prompt, text in zip(('The "', "Return "), ends, strict=True)
]


def demo_metrics(steps: int = 1200) -> list[Any]:
    """Every fifth step of training, and an evaluation at every hundredth."""
    lines: list[Any] = [eval_line(0)]
    for step in range(1, steps + 1):
        if step % 5 == 0 or step == 1:
            lines.append(train_line(step, steps))
        if step % 100 == 0:
            lines.append(eval_line(step))
    return lines
