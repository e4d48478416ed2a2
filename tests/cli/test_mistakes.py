import pytest
from command import run

from llmjax.cli.registry import COMMANDS, SYNONYMS


@pytest.mark.parametrize(
    ("argv", "messages"),
    [
        ("finetune x", ["finetune: no such command; did you mean train?"]),
        ("Eval x", ["Eval: no such command; did you mean evaluate?"]),
        ("trian x", ["trian: no such command; did you mean train?"]),
        (
            "qqq",
            [
                "qqq: no such command; choose one of train, plan, scale, skill, evaluate, "
                "predict, choose, harness, generate, chat, serve, fill-mask, embed, index, search, "
                "translate, compress, decompress, inspect, import, export, report, presets, "
                "models, runs, completion, data, tokenizer"
            ],
        ),
        ("train", ["CONFIG: missing; usage: llmjax train CONFIG"]),
        ("train elsewhere/x.py", ["elsewhere/x.py: no such config file; presets: "]),
        (
            "train quikstart",
            ["quikstart: no such config file; did you mean the preset qu"],
        ),
        ("train smoke more", ["more: unexpected; usage: llmjax train CONFIG"]),
        ("train smoke -steps 3", ["-steps 3: unexpected; did you mean --steps?"]),
        ("train smoke steps=3", ["steps=3: unexpected; did you mean --steps=3?"]),
        ("train smoke --stepz 3", ["--stepz: no such field; did you mean --steps?"]),
        ("train smoke --lrr 3", ["--lrr: no such field; did you mean --lr?"]),
        ("export nowhere x.gguf", ["x.gguf: is the name of a GGUF file, and --to hf writes a f"]),
        ("train smoke --steps 3 4", ["4: unexpected"]),
        (
            "train smoke --steps many --optimizer.lerning-rate 3 --model.gated maybe",
            [
                "--steps: 'many' is not an integer",
                "--optimizer.lerning-rate: no such field; did you mean --optimizer.learning-rate?",
                "maybe: unexpected",
            ],
        ),
        (
            "train smoke --optimizer adam",
            ["--optimizer: 'adam' is not one of its kinds; did you mean"],
        ),
        ("train smoke --optimizer.learning-rate nan", ["optimizer.learning_rate: nan"]),
        (
            "train smoke --steps 0 --data.length 999 --optimizer.schedule.warmup-steps 0",
            ["steps: 0 is not positive", "data.length: 999 tokens, but model.max_length is 64"],
        ),
        (
            "train smoke --data.sources nothing",
            ["--data.sources: 'nothing' is not one of its kinds"],
        ),
        ("train smoke --run-dir /dev/null/x", ["run_dir: /dev/null is a file, not a folder"]),
        ("evaluate", ["RUN: missing; usage: llmjax evaluate RUN"]),
        ("evaluate nowhere --stride wide", ["--stride: 'wide' is not an integer or none"]),
        ("evaluate nowhere", ["nowhere: no such run folder"]),
        ("evaluate nowhere --dtype float16", ["--dtype: 'float16' is not one of float32|bfloat16"]),
        ("choose nowhere", ["choose: there are no questions; give --data FILE.jsonl"]),
        ("choose nowhere --data x.jsonl", ["nowhere: no such run folder"]),
        ("harness nowhere", ["harness: there is no task; give --tasks NAME,NAME"]),
        ("harness nowhere --tasks arc_easy", ["nowhere: no such run folder"]),
        ("generate nowhere --temprature 1", ["--temprature: no such field; did you mean --temper"]),
        (
            "generate nowhere --top-p 2 --temperature -1",
            ["--top-p: must be above 0", "--temperature: must be"],
        ),
        ("generate nowhere --prompt", ["nowhere: no such run folder"]),
        (
            "generate nowhere --temperature nan --samples 1000000000",
            [
                "--temperature: nan is not a finite number",
                "--samples: 1000000000 is more than 65536",
            ],
        ),
        ("evaluate nowhere --step 99999999999", ["--step: 99999999999 is more than 2147483647"]),
        ("embed nowhere --text x --batch-size 9999999", ["--batch-size: 9999999 is more than"]),
        (
            "tokenizer train x --tokenizer.vocab-size 9 --tokenizer.character-coverage 7",
            ["config: tokenizer.vocab_size: 9 is less than the 260"],
        ),
        ("harness nowhere --tasks x --limit -1", ["nowhere: no such run folder"]),
        ("compress nowhere in", ["OUT: missing; usage: llmjax compress RUN IN OUT"]),
        ("compress nowhere in out", ["nowhere: no such run folder"]),
        ("compress nowhere in no/out", ["no: no such folder"]),
        ("decompress nowhere in out", ["in: No such file or directory"]),
        ("inspect in", ["in: No such file or directory"]),
        ("report nowhere", ["nowhere: no such run folder"]),
        ("tokenizer", ["tokenizer nothing: no such command; usage: llmjax tokenizer train FOLDER"]),
        ("tokenizer trian x", ["tokenizer trian: no such command"]),
        ("tokenizer train", ["FOLDER: missing"]),
    ],
)
def test_mistakes_are_a_line_each_and_exit_with_2(capsys, tmp_path, monkeypatch, argv, messages):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *argv.split())
    assert (code, out) == (2, "")
    assert len(err) >= len(messages)
    for message in messages:
        assert any(line.startswith(f"llmjax: error: {message}") for line in err), err
    if len(messages) == 1 and "optimizer" not in argv:
        assert len(err) == 1, err
    assert list(tmp_path.iterdir()) == []


def test_every_suggested_command_exists():
    assert set(SYNONYMS.values()) <= COMMANDS.keys()
    assert not SYNONYMS.keys() & COMMANDS.keys()
