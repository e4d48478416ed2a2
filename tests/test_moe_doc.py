"""docs/moe.md is typed here as it stands, with smaller models and few steps."""

import json
import re
import shlex
from pathlib import Path

import pytest

import runs
from llmjax.cli.main import main

pytestmark = pytest.mark.documentation

PAGE = (Path(__file__).parents[1] / "docs" / "moe.md").read_text(encoding="utf-8")
LISTINGS = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
COMMANDS = [shlex.split(line)[1:] for line in LISTINGS.splitlines() if line.startswith("llmjax ")]
SMALL = (
    "--steps 2 --model.d-model 16 --model.num-heads 2 --model.num-decoder-layers 2 "
    "--model.d-ff 704 --tokenizer bytes --data.length 32 --data.batch-size 8 --log.every 1 "
    "--optimizer sgd --optimizer.schedule.warmup-steps 0 --compute.dtype float32 "
    "--evaluation.every 1 --evaluation.max-tokens 256 --samples.every 0 --log.display none"
).split()


@pytest.mark.once
def test_a_dense_run_becomes_a_sparse_one(tmp_path, monkeypatch, capsys):
    runs.train_on(monkeypatch, 1)
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("".join(f"Row {n} of letters.\n" for n in range(600)))
    sources = ["--data.sources", "text:text.txt,split=line"]
    for words in COMMANDS:
        small = [*SMALL, *sources] if words[0] == "train" else []
        assert main([*words, *small]) == 0, words
    stored = json.loads(Path("runs/upcycled/config.json").read_text())["config"]
    assert stored["model"]["moe"]["num_experts"] == 8
    assert stored["model"]["d_model"] == 16
    assert stored["init_from"] == "runs/dense"
    assert main(["export", "runs/adapted", "adapters", "--to", "peft"]) == 2
    assert "experts, which are not written as PEFT files" in capsys.readouterr().err
    # It resumes without the dense run.
    Path("runs/dense").rename("runs/elsewhere")
    assert main([*COMMANDS[1], *SMALL, *sources, "--steps", "3"]) == 0
    lines = Path("runs/upcycled/metrics.jsonl").read_text().splitlines()
    assert max(json.loads(line)["step"] for line in lines) == 3
