"""Heads as Transformers' classes: the same probabilities under the same names."""

from dataclasses import replace
from pathlib import Path

import hf_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.checkpoint import save_params
from llmjax.config.storage import to_json
from llmjax.convert import export, import_model
from llmjax.convert.heads import tasks_of
from llmjax.convert.stored import stored_params
from llmjax.data import load_tokenizer
from llmjax.data.tables import Row
from llmjax.errors import UserError
from llmjax.model import Model, resolve
from llmjax.run import Run
from llmjax.tasks import opening
from llmjax.tasks.config import (
    ClassificationTask,
    MultiLabelTask,
    RegressionTask,
    TokenTask,
    name_of,
)
from llmjax.tasks.packing import shape_of
from llmjax.tasks.running import arrays_of
from llmjax.tasks.task import Facts

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TASKS = (ClassificationTask(), MultiLabelTask(), RegressionTask(), TokenTask())
FACTS = {
    "classification": Facts(labels=("bad", "fair", "good"), counts=(1, 1, 1)),
    "multilabel": Facts(labels=("red", "green", "blue", "grey"), counts=(1, 1, 1, 1)),
    "regression": Facts(mean=2.5),
    "tokens": Facts(labels=("O", "B-X", "I-X"), counts=(1, 1, 1)),
    "answers": Facts(),
}
CLASSES = {
    "classification": "SequenceClassification",
    "multilabel": "SequenceClassification",
    "regression": "SequenceClassification",
    "tokens": "TokenClassification",
    "answers": "QuestionAnswering",
}
TEXTS = ["A short one", "Another text, and a longer one than the first", "né 🙂"]
MODELS = [name for name in hf_models.CASES if name not in hf_models.ENCODER_DECODERS]
LENGTH = 64


def with_tasks(base: Path, folder: Path, tasks=TASKS) -> Run:
    """The run of an imported model, with a head for each task."""
    there, run = Run.open(base), Run(folder)
    config = there.config()
    config = replace(
        config, run_dir=str(folder), tasks=tasks, data=replace(config.data, length=LENGTH)
    )
    tokenizer = load_tokenizer(there.tokenizer)
    tokenizer.save(run.tokenizer)
    run.config_path.write_text(to_json(config))
    facts = {name_of(task): FACTS[task.kind] for task in tasks}
    (folder / "tasks.json").write_text(opening.to_json(facts))
    (folder / "origin.json").write_bytes((base / "origin.json").read_bytes())
    shape = resolve(config.model, tokenizer.vocab_size)
    params = stored_params(there, shape, None)
    generator, heads = np.random.default_rng(1), {}
    for task in tasks_of(run, shape, tokenizer):
        declared = task.head.declared(shape) if task.head else {}
        for path, (size, _) in declared.items():
            place = heads.setdefault(name_of(task.config), {})
            *outer, last = path.split(".")
            for name in outer:
                place = place.setdefault(name, {})
            place[last] = jnp.asarray(generator.normal(0, 0.3, size), jnp.float32)
    save_params(run.checkpoints, params | {"heads": heads})
    return run


@pytest.fixture(scope="module", params=MODELS)
def run(request, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "there").mkdir()
    hf_models.build(request.param, folder / "there")
    return with_tasks(import_model(folder / "there", folder / "base"), folder / "run")


def ours(run: Run, name: str):
    """The tokenizer, the task, its examples of the texts, and what our model says of each."""
    tokenizer = load_tokenizer(run.tokenizer)
    shape = resolve(run.config().model, tokenizer.vocab_size)
    task = next(t for t in tasks_of(run, shape, tokenizer) if name_of(t.config) == name)
    rows = [Row(f"line {n}", {"text": text, "tokens": text}) for n, text in enumerate(TEXTS)]
    examples = task.examples(rows)
    packed = replace(shape_of(examples, LENGTH, encodes=False), slots=1)
    params, model = stored_params(run, shape, None), Model(shape)
    told = jax.jit(lambda batch: [dict(one) for one in task.outputs(model, params, batch)])
    found = []
    for example in examples:
        slots, tokens = told(arrays_of([example], packed))
        one = {key: np.asarray(value)[0, 0] for key, value in slots.items()}
        found.append(one | {key: np.asarray(value)[0] for key, value in tokens.items()})
    return tokenizer, task, examples, found


def theirs(folder: Path, name: str):
    """The loaded class, and its outputs for the padded texts."""
    model = getattr(transformers, f"AutoModelFor{CLASSES[name]}").from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model, model(**batch)


def test_tokens_have_the_same_probabilities_under_the_same_names(run, tmp_path):
    if (name := run.folder.parent.name[:-1]) in ("olmo2", "gemma3"):
        with pytest.raises(UserError, match=r"no .* class for TokenClassification"):
            export(run.folder, tmp_path / "out", task="tokens")
        pytest.skip(f"Transformers has no such class for {name}")
    export(run.folder, tmp_path / "out", task="tokens")
    auto = transformers.AutoModelForTokenClassification
    model = auto.from_pretrained(tmp_path / "out").eval()
    tokenizer, task, examples, told = ours(run, "tokens")
    size = max(example.length for example in examples)
    ids = np.full((len(examples), size), tokenizer.pad_id)
    mask = np.zeros((len(examples), size), int)
    for row, example in enumerate(examples):
        ids[row, : example.length], mask[row, : example.length] = example.segments[0].tokens, 1
    with torch.no_grad():
        there = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits
    wanted = torch.softmax(there, -1).numpy()
    for row, example in enumerate(examples):
        here = told[row]["probabilities"][: example.length]
        np.testing.assert_allclose(here, wanted[row, : example.length], atol=1e-4)
    assert model.config.id2label == dict(enumerate(task.facts.labels))


@pytest.mark.parametrize("name", ["classification", "multilabel", "regression"])
def test_texts_have_the_same_probabilities_under_the_same_names(run, tmp_path, name):
    export(run.folder, tmp_path / "out", task=name)
    model, told = theirs(tmp_path / "out", name)
    logits, here = told.logits, ours(run, name)[-1]
    if name == "regression":
        found = np.array([one["value"] for one in here])[:, None]
        np.testing.assert_allclose(found, logits.numpy(), rtol=1e-4, atol=1e-4)
        assert model.config.problem_type == "regression"
        assert model.config.id2label == {0: "score"}
        return
    softmax = name == "classification"
    wanted = torch.softmax(logits, -1) if softmax else torch.sigmoid(logits)
    found = np.array([one["probabilities"] for one in here])
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)
    labels = FACTS[name].labels
    assert model.config.id2label == dict(enumerate(labels))
    assert model.config.label2id == {label: n for n, label in enumerate(labels)}
    kind = "single_label" if softmax else "multi_label"
    assert model.config.problem_type == f"{kind}_classification"
