"""The harness adapter: likelihoods, rolling likelihoods and texts equal the run's."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.errors import UserError
from llmjax.evaluation.harness import harness
from llmjax.evaluation.harness_model import HarnessModel, decoding
from llmjax.scoring.continuations import score_continuations
from untrained import in_hand, make_run

BOS = BytesTokenizer().bos_id
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}|{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


@pytest.fixture(scope="module")
def lm():
    return in_hand(BytesTokenizer(chat_template=TEMPLATE))


@pytest.fixture(scope="module")
def model(lm):
    return HarnessModel(lm, max_gen_toks=5)


class Request:
    """Requests of the harness."""

    def __init__(self, *args):
        self.args = args


def likelihood(lm, prefix, tail):
    (result,) = score_continuations(lm.model, lm.params, [(prefix, tail)], bos_id=BOS)
    return result.total, result.greedy


def test_likelihoods_are_those_of_the_tokens(lm, model):
    asked = [("Is it?", " yes"), ("Is it? ", "no"), ("", "né")]
    result = model.loglikelihood([Request(*pair) for pair in asked], disable_tqdm=True)
    expected = [
        likelihood(lm, [BOS, *b"Is it?"], [*b" yes"]),
        likelihood(lm, [BOS, *b"Is it?"], [*b" no"]),
        likelihood(lm, [BOS], [*"né".encode()]),
    ]
    np.testing.assert_allclose([f[0] for f in result], [w[0] for w in expected], rtol=2e-5)
    assert [f[1] for f in result] == [w[1] for w in expected]


def test_special_tokens_in_prompts_are_tokens(model):
    assert model.tok_encode("<bos>a") == [BOS, 97]
    assert model.tok_encode("a") == [BOS, 97]
    assert model.tok_encode("a", add_special_tokens=False) == [97]


def test_rolling_likelihoods_count_every_token_once(lm):
    text = "All the words of a text that is longer than the window. " * 3
    short = HarnessModel(lm, max_length=32)
    (result, empty) = short.loglikelihood_rolling([Request(text), Request("")], True)
    tokens = [BOS, *text.encode()]
    expected = likelihood(lm, [BOS], tokens[:32])[0]
    for first in range(32, len(tokens), 32):
        end = min(first + 32, len(tokens))
        prefix = tokens[end - 33 : first]
        expected += likelihood(lm, prefix, tokens[first:end])[0]
    assert result == pytest.approx(expected, rel=2e-5)
    assert empty == pytest.approx(likelihood(lm, [BOS], [BOS])[0], rel=2e-5)


def test_texts_are_written_as_by_generate(lm, model):
    prompts = ["One", "Two words", "Three"]
    settings = [{"until": ["\n"], "max_gen_toks": 9}, {"do_sample": False}, {"until": "e"}]
    requests = [Request(p, s) for p, s in zip(prompts, settings, strict=True)]
    result = model.generate_until(requests, disable_tqdm=True)
    for text, prompt, size, stop in zip(result, prompts, (9, 5, 5), ("\n", (), "e"), strict=True):
        fields = {"temperature": 0.0, "max_new_tokens": size, "stop": stop}
        assert text == lm.generate(prompt, **fields)[0].text


def test_settings_of_tasks_become_ours(caplog):
    assert decoding({"until": ["", "x"]}, 7, 3).stop == ("x",)
    assert decoding({"temperature": 0.7}, 7, 3).temperature == 0.7
    assert decoding({"do_sample": True, "top_k": 5}, 7, 3).top_k == 5
    assert decoding({"do_sample": False, "temperature": 0.7, "top_k": 5}, 7, 3).top_k is None
    assert decoding({"num_beams": 4}, 7, 3).beams == 4
    assert decoding({"max_new_tokens": "11"}, 7, 3).max_new_tokens == 11
    decoding({"odd": 1}, 7, 3)
    assert "unsupported generation settings, ignored: odd" in caplog.text


@pytest.mark.parametrize(
    "given", [{"max_gen_toks": "--1x"}, {"temperature": "0,5"}, {"max_tokens": [1]}]
)
def test_settings_that_are_no_numbers_are_named(given):
    name = next(iter(given))
    with pytest.raises(UserError, match=f"generation_kwargs, {name}: .* is not a number"):
        decoding(given, 7, 3)


def test_chats_are_spelt_by_the_models_template(model):
    messages = [{"role": "u", "content": "Hi"}, {"role": "a", "content": "Yes "}]
    assert model.apply_chat_template(messages) == "<u>Hi|<a>Yes |<a>"
    assert model.apply_chat_template(messages, add_generation_prompt=False) == "<u>Hi|<a>Yes"
    assert model.chat_template(True) == TEMPLATE
    assert model.chat_template() is None
    with pytest.raises(UserError, match="this model has none"):
        HarnessModel(in_hand()).apply_chat_template(messages)


def test_models_that_cannot_be_asked(lm):
    with pytest.raises(UserError, match="has no decoder"):
        HarnessModel(in_hand(num_encoder_layers=1, num_decoder_layers=0))
    with pytest.raises(UserError, match="choose 2 to 128"):
        HarnessModel(lm, max_length=500)


@pytest.fixture
def tasks(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    lines = [
        {"question": f"Is {n} even?", "choices": ["yes", "no"], "answer": n % 2} for n in range(6)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "parity_of_numbers.yaml").write_text(f"""task: parity_of_numbers
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}, cache_dir: "{tmp_path / "cache"}"}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_bytes}}]
""")
    return folder, data


def test_the_command_gives_the_figures_of_choose(command, tmp_path, tasks):
    folder, data = tasks
    run = str(make_run(tmp_path / "made").folder)
    words = ["harness", run, "--tasks", "parity_of_numbers", "--include-path", str(folder)]
    code, out, _ = command(*words)
    assert code == 0
    assert "|parity_of_numbers|" in out
    result = json.loads((tmp_path / "made" / "run" / "harness.json").read_text())
    assert result["config"]["model"] == "llmjax"
    figures = result["results"]["parity_of_numbers"]
    _, out, _ = command("choose", run, "--data", str(data), "--json")
    chosen = json.loads(out.splitlines()[-1])["measures"]["metrics"]
    assert figures["acc,none"] == pytest.approx(chosen["accuracy"]["value"])
    assert figures["acc_bytes,none"] == pytest.approx(chosen["accuracy_per_byte"]["value"])
    other = tmp_path / "other.json"
    code, out, _ = command(*words, "--limit", "2", "--samples", "--out", str(other), "--json")
    assert json.loads(out.splitlines()[-1])["out"] == str(other)
    assert len(json.loads(other.read_text())["samples"]["parity_of_numbers"]) == 2
    code, _, err = command(*words[:3], "parity_of_number", *words[4:])
    assert code == 2
    assert err[-1].endswith("is unknown to the harness; did you mean parity_of_numbers?")


@pytest.mark.once
def test_the_task_of_the_documentation_knows_its_answers(command, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in ("data/quiz.jsonl", "data/harness/quiz.yaml"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(page.split(f"cat > {name} <<'END'\n")[1].split("\nEND\n")[0] + "\n")
    run = str(make_run(tmp_path / "made").folder)
    _, out, _ = command("choose", run, "--data", "data/quiz.jsonl", "--json")
    accuracy = json.loads(out.splitlines()[-1])["measures"]["metrics"]["accuracy"]["value"]
    words = ("harness", run, "--tasks", "quiz", "--include-path", "data/harness", "--samples")
    assert command(*words)[0] == 0
    result = json.loads((tmp_path / "made" / "run" / "harness.json").read_text())
    assert result["results"]["quiz"]["acc,none"] == accuracy
    samples = result["samples"]["quiz"]
    pairs = [(item["target"], item["doc"]["choices"]) for item in samples]
    answers = [own if isinstance(own, int) else choices.index(own) for own, choices in pairs]
    lines = Path("data/quiz.jsonl").read_text().splitlines()
    assert answers == [json.loads(line)["answer"] for line in lines]
    assert len(set(answers)) > 1


@pytest.mark.once
def test_the_harness_finds_the_model_by_name(tmp_path, tasks):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    run = make_run(tmp_path / "made").folder
    manager = TaskManager(include_path=str(tasks[0]), include_defaults=False)
    result = simple_evaluate(
        model="llmjax",
        model_args=f"run={run},step=3,max_length=40",
        tasks=["parity_of_numbers"],
        task_manager=manager,
        bootstrap_iters=0,
        batch_size=2,
    )
    actual = harness(run, "parity_of_numbers", include_path=tasks[0], step=3, samples=True)

    def log_likelihoods(results):
        samples = results["samples"]["parity_of_numbers"]
        return [[pair[0] for pair in item["filtered_resps"]] for item in samples]

    np.testing.assert_allclose(log_likelihoods(result), log_likelihoods(actual), rtol=1e-4)


def test_without_the_extra_the_error_names_it(tmp_path):
    run = make_run(tmp_path).folder
    code = f"""import sys
sys.modules["lm_eval"] = None
from llmjax.cli.main import main
sys.exit(main(["harness", {str(run)!r}, "--tasks", "arc_easy"]))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("llmjax: error: the evaluation harness: is not installed")
    assert line.endswith('pip install "llmjax[lm-eval]"')


def test_no_other_model_code_is_imported():
    code = (
        "import llmjax.evaluation.harness_model, sys\n"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
