"""Skill against bits: the questions, the lines, and the page."""

import csv
import json

import numpy as np
import pytest

from llmjax.cli.main import main
from llmjax.errors import UserError
from llmjax.scaling.skill import (
    Measured,
    Skill,
    SkillOptions,
    Text,
    line_of,
    measure,
    questions_of,
    read_texts,
    skill_problems,
)
from llmjax.scaling.skill_page import write_skill
from task_runs import DECODER, begun
from untrained import in_hand

WORDS = np.random.default_rng(0).choice(["oak", "elm", "ash", "fir", "yew"], 900)
TEXT = Text("trees.txt", " ".join(WORDS), "12" * 32)


def test_questions_are_passages_of_the_text_and_one_is_true():
    questions = questions_of(TEXT, 16, 50, 40, seed=1)
    assert questions == questions_of(TEXT, 16, 50, 40, seed=1)
    assert questions != questions_of(TEXT, 16, 50, 40, seed=2)
    for question in questions:
        assert len(question.text) == 40
        assert len(set(question.choices)) == 4
        assert all(len(choice) == 16 and choice in TEXT.content for choice in question.choices)
        assert all(choice[0] == " " and choice[1] != " " for choice in question.choices)
        assert question.text + question.choices[question.answer] in TEXT.content
    answers = [question.answer for question in questions]
    assert set(answers) == {0, 1, 2, 3}


def test_a_model_that_knows_the_text_finds_its_continuations():
    lm = in_hand(num_decoder_layers=1)
    options = SkillOptions(data=("x",), lengths=(8,), context=20, questions=30)
    guess = measure(lm, "untrained", [TEXT], options)
    assert guess.bits[0] == pytest.approx(lm.score(TEXT.content).bits_per_byte)
    assert 0 <= guess.accuracy[0] < 0.7


def test_the_line_and_its_correlation():
    bits = np.linspace(1, 2, 20)
    noise = 0.02 * np.random.default_rng(0).standard_normal(20)
    line = line_of(16, bits, 0.9 - 0.3 * bits + noise)
    assert line.slope == pytest.approx(-0.3, abs=0.03)
    assert line.correlation == pytest.approx(
        float(np.corrcoef(bits, 0.9 - 0.3 * bits + noise)[0, 1])
    )
    assert -1 <= line.low < line.correlation < line.high < -0.8
    random = line_of(16, bits, np.random.default_rng(1).random(20))
    assert random.low < 0 < random.high


def test_the_page_and_the_table_have_every_figure(tmp_path):
    models = [Measured(f"m{n}", n, 1000 * n, (2 - n / 10,), (0.3 + n / 20,)) for n in range(1, 6)]
    pairs = [(model.mean_bits, model.accuracy[0]) for model in models]
    bits, accuracy = (np.array(x) for x in zip(*pairs, strict=True))
    result = Skill((TEXT,), (16,), tuple(models), (line_of(16, bits, accuracy),))
    page = write_skill(result, tmp_path / "skill.html").read_text()
    assert all(f"{model.bits[0]:.4f}" in page for model in models)
    assert "-1.000" in page
    assert TEXT.sha256 in page
    rows = list(csv.reader((tmp_path / "skill.csv").open()))
    assert [float(row[3]) for row in rows[1:]] == [model.bits[0] for model in models]


def test_the_command_measures_runs_and_checkpoints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    begun(tmp_path / "run", DECODER)
    (tmp_path / "trees.txt").write_text(TEXT.content)
    words = "skill run run@0 run@all --data trees.txt --lengths 4 --context 8 --questions 5 --json"
    assert main(words.split()) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [model["step"] for model in printed["models"]] == [0, 0, 0]
    assert (tmp_path / "skill.html").is_file()
    assert (tmp_path / "skill.csv").is_file()


def test_mistakes_are_named(tmp_path):
    (tmp_path / "a.txt").write_text("short")
    (tmp_path / "b.txt").write_text("short")
    with pytest.raises(UserError, match="a text twice"):
        read_texts([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])
    with pytest.raises(UserError, match="repeats itself"):
        questions_of(Text("a", "oak " * 200, "00" * 32), 16, 1, 10, 0)
    with pytest.raises(UserError, match="too few for passages"):
        questions_of(Text("a", "short", "00" * 32), 16, 1, 10, 0)
    assert skill_problems(SkillOptions())[0].startswith("data: ")
    assert skill_problems(SkillOptions(data=("a",), lengths=(4, 4)))[0].startswith("lengths: ")
    assert not skill_problems(SkillOptions(data=("a",)))
