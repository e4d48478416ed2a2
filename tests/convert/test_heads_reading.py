"""Heads of published classes are imported, or skipped with a warning."""

import json
import logging
import re
import shlex

import hf_models
import numpy as np
import pytest
import sentence_folders
from safetensors.numpy import load_file, save_file

from llmjax.cli.main import main
from llmjax.convert.exporting import export
from llmjax.convert.importing import import_model
from llmjax.inference.embed import embed
from llmjax.run.folder import Run

TEXTS = ["a b c", "x y", "q r s t u v"]


def small(folder, architecture, tensors, **fields):
    """Write the stored BERT as another class."""
    sentence_folders.build(folder, {})
    for name in ("modules.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    stored = load_file(folder / "model.safetensors")
    body = {name: value for name, value in stored.items() if not name.startswith("cls.")}
    save_file(body | tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": [architecture]} | fields
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("f4")


def classifier(labels, folder, **fields):
    tensors = {
        "bert.pooler.dense.weight": drawn(8, 8),
        "bert.pooler.dense.bias": drawn(8),
        "classifier.weight": drawn(len(labels), 8),
        "classifier.bias": drawn(len(labels)),
    }
    labels_field = {"id2label": {str(i): label for i, label in enumerate(labels)}}
    return small(folder, "BertForSequenceClassification", tensors, **(labels_field | fields))


def written(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_classifier_predicts(tmp_path, capsys):
    run = import_model(classifier(["bad", "fair", "good"], tmp_path / "there"), tmp_path / "run")
    (task,) = Run.open(run).config().tasks
    assert task.kind == "classification"
    data = written(tmp_path, [{"text": text, "label": "good"} for text in TEXTS])
    assert main(["predict", str(run), "--data", str(data)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3
    assert all({"bad", "fair", "good"} == set(line["probabilities"]) for line in lines)
    assert main(["evaluate", str(run), "--data", str(data), "--json"]) == 0
    assert "accuracy" in capsys.readouterr().out
    export(run, tmp_path / "out")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("there", "out"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"problem_type": "multi_label_classification"}, "multilabel"),
        ({"problem_type": "single_label_classification"}, "classification"),
        ({"id2label": None}, "classification"),
    ],
)
def test_what_its_config_says_decides_of_the_task(tmp_path, fields, kind):
    run = import_model(classifier(["a", "b"], tmp_path / "there", **fields), tmp_path / "run")
    (task,) = Run.open(run).config().tasks
    assert task.kind == kind


def test_one_output_is_a_number(tmp_path):
    run = import_model(classifier(["LABEL_0"], tmp_path / "there"), tmp_path / "run")
    (task,) = Run.open(run).config().tasks
    assert (task.kind, task.target) == ("regression", "score")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"problem_type": "regression"}, "has 2 outputs"),
        ({"problem_type": "ranking"}, "problem_type 'ranking'"),
        ({"id2label": {"0": "a"}}, "id2label"),
        ({"id2label": {"0": "a", "1": "a"}}, "id2label"),
        ({"id2label": {"0": "a", "1": []}}, "id2label"),
        ({"id2label": ["a", "b"]}, "id2label"),
    ],
)
def test_a_head_that_cannot_be_read_is_said_to_be_left_out(tmp_path, caplog, fields, words):
    folder = classifier(["a", "b"], tmp_path / "there", **fields)
    with caplog.at_level(logging.WARNING):
        run = import_model(folder, tmp_path / "run")
    assert "the head of BertForSequenceClassification is not imported" in caplog.text
    assert words in caplog.text
    assert Run.open(run).config().tasks == ()
    assert embed(run, TEXTS).shape == (3, 8)


def test_tags_and_answers(tmp_path):
    head = {"classifier.weight": drawn(3, 8), "classifier.bias": drawn(3)}
    labels = {"id2label": {"0": "O", "1": "B-X", "2": "I-X"}}
    folder = small(tmp_path / "tags", "BertForTokenClassification", head, **labels)
    run = import_model(folder, tmp_path / "run")
    assert Run.open(run).config().tasks[0].kind == "token_classification"
    head = {"qa_outputs.weight": drawn(2, 8), "qa_outputs.bias": drawn(2)}
    folder = small(tmp_path / "answers", "BertForQuestionAnswering", head)
    run = import_model(folder, tmp_path / "again")
    assert Run.open(run).config().tasks[0].kind == "extractive_qa"


NAMES = ("bert", "roberta", "distilbert")


@pytest.fixture(scope="module", params=NAMES)
def trained(request, tmp_path_factory):
    """A run with a head per task."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from test_heads import with_tasks

    folder = tmp_path_factory.mktemp(request.param)
    (folder / "there").mkdir()
    hf_models.build(request.param, folder / "there")
    return with_tasks(import_model(folder / "there", folder / "base"), folder / "run")


@pytest.mark.parametrize(
    "name", ["classification", "multilabel", "regression", "token_classification", "extractive_qa"]
)
def test_what_was_exported_says_the_same_when_it_is_imported(trained, tmp_path, name):
    from test_heads import predict_texts

    export(trained.folder, tmp_path / "out", task=name)
    again = Run.open(import_model(tmp_path / "out", tmp_path / "again"))
    before, after = predict_texts(trained, name)[-1], predict_texts(again, name)[-1]
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        for key in old:
            np.testing.assert_allclose(old[key], new[key], rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "modernbert", "gpt2"])
@pytest.mark.parametrize(
    ("use", "task"),
    [("SequenceClassification", "classification"), ("TokenClassification", "token_classification")],
)
def test_heads_of_published_classes_compute_the_same(tmp_path, name, use, task):
    from test_heads import outputs_for_examples, predict_texts

    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    case = hf_models.CASES[name]
    labels = {"num_labels": 3, "classifier_pooling": "cls"}
    config = getattr(transformers, case.config)(**case.fields | labels)
    kind = re.sub("ForCausalLM|ForMaskedLM|LMHeadModel", "", case.architecture)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}For{use}")(config).eval()
    model.save_pretrained(tmp_path / "there")
    hf_models.write_tokenizer(tmp_path / "there")
    run = Run.open(import_model(tmp_path / "there", tmp_path / "run"))
    tokenizer, _, examples, outputs = predict_texts(run, task)
    logits = outputs_for_examples(model, tokenizer.pad_id, examples).logits
    for output, example, expected in zip(outputs, examples, logits, strict=True):
        actual = output["probabilities"]
        if task == "token_classification":
            actual, expected = actual[: example.length], expected[: example.length]
        np.testing.assert_allclose(actual, torch.softmax(expected, -1).numpy(), atol=1e-4)


def test_what_a_head_reads_that_is_not_supported_is_said(tmp_path, caplog):
    folder = classifier(["a", "b"], tmp_path / "there", classifier_pooling="mean")
    with caplog.at_level(logging.WARNING):
        run = import_model(folder, tmp_path / "run")
    assert "classifier_pooling 'mean': heads that read anything but the first" in caplog.text
    assert Run.open(run).config().tasks == ()


def masked(folder):
    """The stored BERT as it is, without the description of an embedding."""
    sentence_folders.build(folder, {})
    for name in ("modules.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    return folder


def embedding(folder):
    sentence_folders.build(folder, {})
    return folder


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda folder: classifier(["bad", "good"], folder), "predict"),
        (masked, "fill-mask"),
        (embedding, "embed"),
    ],
)
def test_the_command_named_after_an_import_runs_as_it_is_printed(tmp_path, capsys, make, name):
    run = tmp_path / "a run"
    assert main(["import", str(make(tmp_path / "there")), str(run)]) == 0
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("next: ")
    words = shlex.split(command)
    assert words[:3] == ["llmjax", name, str(run)]
    assert main(words[1:]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out
