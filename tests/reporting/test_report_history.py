"""metrics.jsonl and samples.jsonl as runs really leave them."""

import json
import math

import pytest
from run_folders import START, eval_line, train_line

from llmjax.data.config import DataConfig
from llmjax.data.stages import StageConfig
from llmjax.reporting.facts import work_facts
from llmjax.reporting.format import show_controls
from llmjax.reporting.records import (
    MAX_SAMPLE_CHARACTERS,
    MAX_SAMPLE_STEPS,
    column,
    flops_per_token,
    last,
    number,
    read_history,
    sample_groups,
    wall_seconds,
)
from llmjax.reporting.stages import stage_marks, trained_stages
from llmjax.run.config.schema import Config


def read(folder, *lines, samples=()):
    for name, entries in (("metrics", lines), ("samples", samples)):
        texts = (e if isinstance(e, str) else json.dumps(e) for e in entries)
        (folder / f"{name}.jsonl").write_text("\n".join(texts))
    return read_history(folder)


def test_no_files_are_an_empty_history(tmp_path):
    history = read_history(tmp_path)
    assert (history.train, history.evals, history.samples) == ([], [], [])
    assert (history.unreadable, history.repeats, history.times) == (0, 0, [])


def test_lines_are_split_by_kind(tmp_path):
    rolled = [{"step": 2, "kind": "roll_back", "batches": count} for count in (3, None, "x", 4)]
    other = {"step": 3, "kind": "x"}
    history = read(tmp_path, train_line(1), eval_line(1), train_line(2), *rolled, other)
    assert [line["step"] for line in history.train] == [1, 2]
    assert [line["step"] for line in history.evals] == [1]
    assert history.roll_backs == [(2, 3), (2, 4)]
    fact = next(fact for fact in work_facts(history, {}, None) if fact.label == "Roll backs")
    assert (fact.value, fact.note) == (
        "2",
        "after loss spikes, to step 2, step 2; 7 batches left out",
    )


@pytest.mark.parametrize("spikes", [False, True])
def test_skipped_steps_say_why(tmp_path, spikes):
    history = read(tmp_path, train_line(1) | {"skipped": 2})
    facts = work_facts(history, {}, None, spikes=spikes)
    fact = next(fact for fact in facts if fact.label == "Skipped steps")
    reason = "loss or gradient not finite" + (", or far above the recent ones" if spikes else "")
    assert (fact.value, fact.note) == ("2", reason)


def test_stages_begin_earlier_where_batches_were_left_out():
    stages = tuple(StageConfig(step) for step in (10, 22, 40))
    config = Config(data=DataConfig(stages=stages))
    # Batches 20 to 24 were left out at step 20, then 35 to 36 at step 30.
    assert stage_marks(trained_stages(config, [(20, 5), (30, 2)])) == [10, 20, 33]
    assert stage_marks(trained_stages(config, [])) == [10, 22, 40]


@pytest.mark.parametrize(
    "bad",
    [
        '{"step": 7, "kind": "train", "lo',
        "[]",
        "null",
        "7",
        "\x00\x00",
        '{"kind": "train"}',
        '{"step": "7"}',
        '{"step": true}',
        '{"step": -1}',
        '{"step": NaN}',
        f'{{"step": 1{"0" * 400}}}',
    ],
)
def test_unreadable_lines_are_counted_and_passed_over(tmp_path, bad):
    history = read(tmp_path, train_line(1), bad, train_line(2))
    assert [line["step"] for line in history.train] == [1, 2]
    assert history.unreadable == 1


def test_broken_utf8_costs_one_line(tmp_path):
    good = json.dumps(train_line(1)).encode()
    (tmp_path / "metrics.jsonl").write_bytes(good + b"\n\xff\xfe{\n" + good[:40])
    history = read_history(tmp_path)
    assert len(history.train) == 1
    assert history.unreadable == 2


def test_the_later_attempt_holds_with_all_its_steps(tmp_path):
    """A run logs 10 to 50, goes back to 20 and logs at other steps: the old 30 to 50 are gone."""
    first = [train_line(step, seed=1) for step in (10, 20, 30, 40, 50)]
    second = [train_line(step, seed=2) for step in (25, 35)]
    history = read(tmp_path, *first, *second)
    assert history.train == [*first[:2], *second]
    assert history.repeats == 1


def test_the_last_evaluation_of_a_step_holds(tmp_path):
    again = eval_line(10) | {"bits_per_byte": 1.0}
    history = read(tmp_path, eval_line(20), eval_line(10), again)
    assert [line["step"] for line in history.evals] == [10, 20]
    assert history.evals[0]["bits_per_byte"] == 1.0


@pytest.mark.parametrize("value", [None, "1", True, [], math.nan, math.inf, 10**400])
def test_other_values_than_numbers_are_not_finite(value):
    assert not math.isfinite(number({"loss": value}, "loss"))


def test_columns_keep_gaps_and_last_skips_them():
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": math.nan}, {"step": 3}]
    points = column(lines, "loss")
    assert points[0] == (1.0, 2.0)
    assert math.isnan(points[1][1])
    assert len(points) == 2
    assert last(lines, "loss") == 2.0
    assert last(lines, "mfu") is None


def times(*seconds):
    return [{"step": n, "kind": "train", "time": START + s} for n, s in enumerate(seconds)]


def starts(*seconds):
    return {"sessions": [{"started": START + s} for s in seconds]}


def test_time_without_recorded_starts_is_first_to_last_line(tmp_path):
    assert wall_seconds(read(tmp_path, *times(5, 10, 70)), {}) == 65
    assert wall_seconds(read(tmp_path), {}) is None


def test_time_between_two_starts_does_not_count(tmp_path):
    """Worked from 0 to 70, rested until 1000, worked to 1050; one start logged nothing."""
    history = read(tmp_path, *times(5, 70, 1010, 1050))
    assert wall_seconds(history, starts(0, 500, 1000)) == 70 + 50


def test_time_counts_lines_before_the_first_recorded_start(tmp_path):
    history = read(tmp_path, *times(5, 25, 1010))
    assert wall_seconds(history, starts(1000)) == 20 + 10


def test_flops_per_token_is_recorded_or_a_ratio(tmp_path):
    history = read(
        tmp_path,
        {"step": 1, "kind": "train", "tokens_per_second": 5.0} | {"model_flops_per_second": 20.0},
    )
    assert flops_per_token(history, {}) == 4.0
    assert flops_per_token(history, {"model": {"flops_per_token": 7}}) == 7.0
    assert flops_per_token(read(tmp_path), {}) is None


def sample(step, prompt="The", text="The end"):
    return {"step": step, "prompt": prompt, "text": text}


def test_samples_are_split_from_their_prompts_and_come_latest_first():
    groups = sample_groups(
        [sample(1), sample(2, text=" beginning"), sample(1, text="The other end")]
    )
    assert [group.step for group in groups] == ["2", "1"]
    assert [(s.prompt, s.text) for s in groups[1].samples] == [
        ("The", " end"),
        ("The", " other end"),
    ]
    assert [(s.prompt, s.text) for s in groups[0].samples] == [("The", " beginning")]


@pytest.mark.parametrize("steps", [1, 7, 8, 9, 20, 1000])
def test_few_steps_are_shown_the_first_and_last_among_them(steps):
    shown = [
        int(group.step.replace(",", ""))
        for group in sample_groups([sample(s) for s in range(steps)])
    ]
    assert shown == sorted(shown, reverse=True)
    assert len(shown) <= MAX_SAMPLE_STEPS
    assert len(shown) >= min(steps, 5)
    assert (shown[0], shown[-1]) == (steps - 1, 0)


def test_long_samples_are_cut():
    (group,) = sample_groups([sample(1, text="x" * 10_000)])
    assert len(group.samples[0].text) < MAX_SAMPLE_CHARACTERS + 10


def test_control_characters_become_visible():
    assert show_controls("a\x00\x1b[31m\n\tb\x85") == "a\u2400\u241b[31m\n\tb\ufffd"
    assert show_controls("\ud800!") == "?!"
