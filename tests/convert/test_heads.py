"""Heads exported as Transformers classes: same probabilities, same label names."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import hf_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.convert.exporting import export
from llmjax.convert.hf.classes import model_with_head
from llmjax.convert.hf.safetensors import open_folder
from llmjax.convert.importing import import_model
from llmjax.convert.params import stored_params
from llmjax.data.tables.table import Row
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.errors import UserError
from llmjax.inference.embed import embed
from llmjax.model.checks import resolve
from llmjax.model.lora import LoraConfig
from llmjax.model.model import Model
from llmjax.model.trees import flatten, unflatten
from llmjax.run.checkpoint.checkpoints import save_params
from llmjax.run.config.storage import to_json
from llmjax.run.folder import Run
from llmjax.run.parameters import run_tasks
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.config import name_of
from llmjax.tasks.extractive_qa import ExtractiveQATask
from llmjax.tasks.metadata import TaskMetadata, metadata_json
from llmjax.tasks.multilabel import MultiLabelTask
from llmjax.tasks.packing import shape_of
from llmjax.tasks.regression import RegressionTask
from llmjax.tasks.sequence import SequenceTask
from llmjax.tasks.similarity import SimilarityTask
from llmjax.tasks.task import TaskContext
from llmjax.tasks.token_classification import TokenClassificationTask
from task_models import arrays_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TASKS = (
    ClassificationTask(),
    MultiLabelTask(),
    RegressionTask(),
    TokenClassificationTask(),
    ExtractiveQATask(),
)
METADATA = {
    "classification": TaskMetadata(labels=("bad", "fair", "good"), counts=(1, 1, 1)),
    "multilabel": TaskMetadata(labels=("red", "green", "blue", "grey"), counts=(1, 1, 1, 1)),
    "regression": TaskMetadata(mean=2.5),
    "token_classification": TaskMetadata(labels=("O", "B-X", "I-X"), counts=(1, 1, 1)),
    "extractive_qa": TaskMetadata(labels=("answered", "unanswered"), counts=(1, 0)),
}
CLASSES = {
    "classification": "SequenceClassification",
    "multilabel": "SequenceClassification",
    "regression": "SequenceClassification",
    "token_classification": "TokenClassification",
    "extractive_qa": "QuestionAnswering",
}
TEXTS = ["A short one", "Another text, and a longer one than the first", "né 🙂"]
SAME_CODE = "llama-linear llama-yarn gpt-neox-serial phi3-short granite cohere2 olmoe glm4-moe"
SAME_CODE += " granitemoe qwen2-moe qwen3-next deepseek-v2-moe deepseek-v3-moe llama4 llama4-few"
SKIPPED = (*hf_models.ENCODER_DECODERS, *SAME_CODE.split())
MODELS = [name for name in hf_models.CASES if name not in SKIPPED]
LENGTH = 64


def with_tasks(base: Path, folder: Path, tasks=TASKS, lora=None) -> Run:
    """Copy an imported run, adding a head per task, or adapters with everything else frozen."""
    there, run = Run.open(base), Run(folder)
    config = there.config()
    data, model = replace(config.data, length=LENGTH), replace(config.model, lora=lora)
    config = replace(config, run_dir=str(folder), tasks=tasks, data=data, model=model)
    tokenizer = load_tokenizer(there.tokenizer)
    tokenizer.save(run.tokenizer)
    run.config_path.write_text(to_json(config))
    metadata = {name_of(task): METADATA.get(task.kind, TaskMetadata()) for task in tasks}
    (folder / "tasks.json").write_text(metadata_json(metadata))
    (folder / "origin.json").write_bytes((base / "origin.json").read_bytes())
    shape = resolve(config.model, tokenizer.vocab_size)
    params = dict(flatten(stored_params(there, replace(shape, lora=None), None)))
    generator, heads = np.random.default_rng(1), {}
    for path, leaf in flatten(Model(shape).abstract_params()):
        if ".lora_" in path:
            params[path] = jnp.asarray(generator.normal(0, 0.2, leaf.shape), jnp.float32)
    for task in run_tasks(run, run.config(), tokenizer, shape):
        declared = task.head.declared(shape) if task.head else {}
        for path, (size, _) in declared.items():
            node = heads.setdefault(name_of(task.config), {})
            *outer, last = path.split(".")
            for name in outer:
                node = node.setdefault(name, {})
            node[last] = jnp.asarray(generator.normal(0, 0.3, size), jnp.float32)
    flat = params | dict(flatten({"heads": heads}))
    frozen = {path for path in params if lora is not None and ".lora_" not in path}
    save_params(run.checkpoints, unflatten({k: v for k, v in flat.items() if k not in frozen}))
    if frozen:
        save_params(run.frozen, unflatten({path: flat[path] for path in frozen}))
    return run


@pytest.fixture(scope="module", params=MODELS)
def run(request, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "there").mkdir()
    hf_models.build(request.param, folder / "there")
    return with_tasks(import_model(folder / "there", folder / "base"), folder / "run")


def predict_texts(run: Run, name: str):
    """The tokenizer, the task, the examples of TEXTS, and the model's outputs for each."""
    tokenizer = load_tokenizer(run.tokenizer)
    shape = resolve(run.config().model, tokenizer.vocab_size)
    task = next(
        t for t in run_tasks(run, run.config(), tokenizer, shape) if name_of(t.config) == name
    )
    rows = [
        Row(f"line {n}", {"text": text, "tokens": text, "context": text, "question": "Who?"})
        for n, text in enumerate(TEXTS)
    ]
    examples = task.examples(rows)
    packed = replace(shape_of(examples, LENGTH, encodes=False), slots=1)
    params, model = stored_params(run, shape, None), Model(shape)
    outputs_of = jax.jit(lambda batch: list(map(dict, task.outputs(model, params, batch))))
    outputs = []
    for example in examples:
        slots, tokens = outputs_of(arrays_of([example], packed))
        output = {key: np.asarray(value)[0, 0] for key, value in slots.items()}
        outputs.append(output | {key: np.asarray(value)[0] for key, value in tokens.items()})
    return tokenizer, task, examples, outputs


def reference_outputs(folder: Path, name: str):
    """The Transformers model, and its logits for TEXTS, each alone: with LongRoPE, Transformers
    lets the longest of a batch decide for all."""
    model = getattr(transformers, f"AutoModelFor{CLASSES[name]}").from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        batches = (tokenizer([text], return_tensors="pt") for text in TEXTS)
        logits = torch.cat([model(**batch).logits for batch in batches])
    return model, SimpleNamespace(logits=logits)


def outputs_for_examples(model, pad, examples):
    """A Transformers model's outputs for the examples' tokens, padded; see `reference_outputs`."""
    size = (len(examples), max(example.length for example in examples))
    ids, mask, types = np.full(size, pad), np.zeros(size, int), np.zeros(size, int)
    for row, example in enumerate(examples):
        (segment,) = example.segments
        ids[row, : example.length], mask[row, : example.length] = segment.tokens, 1
        types[row, : example.length] = segment.types or 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    inputs |= {"token_type_ids": types} if model.config.model_type in ("bert", "roberta") else {}
    with torch.no_grad():
        if "longrope" not in str(model.config.to_dict()):
            return model(**{name: torch.tensor(array) for name, array in inputs.items()})
        rows = []
        for row, example in enumerate(examples):
            each = {k: torch.tensor(v[row : row + 1, : example.length]) for k, v in inputs.items()}
            rows.append(pad_to(model(**each).logits, size[1]))
        return SimpleNamespace(logits=torch.cat(rows))


def pad_to(logits, length):
    """[1, l, N] -> [1, length, N]; the logits of texts as they are."""
    if logits.ndim < 3:
        return logits
    return torch.nn.functional.pad(logits, (0, 0, 0, length - logits.shape[1]))


# Families for which Transformers has no such class.
HEADLESS = ("internlm3", "cohere")
UNANSWERING = ("olmo2", "gemma", "gemma2", "gemma3", "phi3", "starcoder2", "gpt-oss")
LATENT = ("deepseek-v2", "deepseek-v3")
MISSING = {
    "classification": HEADLESS,
    "multilabel": HEADLESS,
    "regression": HEADLESS,
    "token_classification": ("olmo2", "gemma3", "deepseek-v2", "phimoe", *HEADLESS),
    "extractive_qa": (*UNANSWERING, *LATENT, "phimoe", *HEADLESS),
}


def refused(run: Run, out: Path, name: str) -> bool:
    """Whether Transformers has no class for the task; checks that the export says so."""
    if run.folder.parent.name[:-1] not in MISSING[name]:
        return False
    with pytest.raises(UserError, match=f"class for {CLASSES[name]}"):
        export(run.folder, out, task=name)
    return True


@pytest.mark.parametrize("name", ["token_classification", "extractive_qa"])
def test_tokens_have_the_same_outputs(run, tmp_path, name):
    if refused(run, tmp_path / "out", name):
        return
    export(run.folder, tmp_path / "out", task=name)
    auto = getattr(transformers, f"AutoModelFor{CLASSES[name]}")
    model = auto.from_pretrained(tmp_path / "out").eval()
    tokenizer, task, examples, outputs = predict_texts(run, name)
    reference = outputs_for_examples(model, tokenizer.pad_id, examples)
    if name == "token_classification":
        expected = torch.softmax(reference.logits, -1).numpy()
        assert model.config.id2label == dict(enumerate(task.metadata.labels))
    else:
        expected = torch.stack([reference.start_logits, reference.end_logits], -1).numpy()
    for row, example in enumerate(examples):
        key = "probabilities" if name == "token_classification" else "logits"
        actual = outputs[row][key][: example.length]
        rows = expected[row, : example.length]
        np.testing.assert_allclose(actual, rows, atol=1e-4 * np.abs(rows).max())


@pytest.mark.parametrize("name", ["classification", "multilabel", "regression"])
def test_texts_have_the_same_probabilities_under_the_same_names(run, tmp_path, name):
    if refused(run, tmp_path / "out", name):
        return
    export(run.folder, tmp_path / "out", task=name)
    model, reference = reference_outputs(tmp_path / "out", name)
    logits, outputs = reference.logits, predict_texts(run, name)[-1]
    if name == "regression":
        values = np.array([output["value"] for output in outputs])[:, None]
        np.testing.assert_allclose(values, logits.numpy(), rtol=1e-4, atol=1e-4)
        assert model.config.problem_type == "regression"
        assert model.config.id2label == {0: "score"}
        return
    softmax = name == "classification"
    expected = torch.softmax(logits, -1) if softmax else torch.sigmoid(logits)
    actual = np.array([output["probabilities"] for output in outputs])
    np.testing.assert_allclose(actual, expected.numpy(), atol=1e-4)
    labels = METADATA[name].labels
    assert model.config.id2label == dict(enumerate(labels))
    assert model.config.label2id == {label: n for n, label in enumerate(labels)}
    kind = "single_label" if softmax else "multi_label"
    assert model.config.problem_type == f"{kind}_classification"


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Name -> (Transformers folder, imported run)."""
    made: dict[str, tuple[Path, Path]] = {}

    def base(name: str) -> tuple[Path, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            (folder / "there").mkdir()
            hf_models.build(name, folder / "there")
            made[name] = folder / "there", import_model(folder / "there", folder / "run")
        return made[name]

    return base


def test_one_of_several_tasks_is_to_be_named(bases, tmp_path):
    run = with_tasks(bases("bert")[1], tmp_path / "run")
    with pytest.raises(UserError, match="has 5 tasks; --task: classification, multilabel"):
        export(run.folder, tmp_path / "out")
    with pytest.raises(UserError, match="no such task; it has classification"):
        export(run.folder, tmp_path / "out", task="colour")
    only = with_tasks(bases("bert")[1], tmp_path / "only", TASKS[:1])
    export(only.folder, tmp_path / "out")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert config.architectures == ["BertForSequenceClassification"]


def test_a_head_that_no_class_has_is_refused(bases):
    run = Run.open(bases("modernbert")[1])
    tokenizer = load_tokenizer(run.tokenizer)
    shape = resolve(run.config().model, tokenizer.vocab_size)
    bare = replace(shape, lm_head_transform=False, lm_head_bias=False)
    task = TASKS[0].open(TaskContext(tokenizer, bare, LENGTH), METADATA["classification"])
    with pytest.raises(UserError, match=r"head .tanh. differs from that of ModernBertForSequence"):
        model_with_head(task, bare, "modernbert")


def test_tasks_of_text_export_the_whole_model(bases, tmp_path):
    there, base = bases("t5")
    run = with_tasks(base, tmp_path / "run", (SequenceTask(),))
    export(run.folder, tmp_path / "out")
    again, before = (
        transformers.T5ForConditionalGeneration.from_pretrained(folder).state_dict()
        for folder in (tmp_path / "out", there)
    )
    assert again.keys() == before.keys()
    assert all(torch.equal(again[name], before[name]) for name in before)


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_vectors_of_texts_are_those_of_sentence_transformers(bases, tmp_path, name):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    run = with_tasks(bases(name)[1], tmp_path / "run", (SimilarityTask(),))
    export(run.folder, tmp_path / "out")
    assert name != "bert" or not any("cls." in key for key in open_folder(tmp_path / "out").names())
    model = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert model.max_seq_length == LENGTH // 2
    texts = [text[: LENGTH // 2] for text in TEXTS]
    there = model.encode(texts)
    np.testing.assert_allclose(np.linalg.norm(there, axis=1), 1, atol=1e-5)
    pooling = "last" if name == "llama" else "mean"
    here = embed(run.folder, texts, pooling=pooling, normalize=True)
    np.testing.assert_allclose(here, there, atol=1e-4)
    again = import_model(tmp_path / "out", tmp_path / "again") if name != "t5" else None
    if again is not None:
        np.testing.assert_allclose(embed(again, texts), there, atol=1e-4)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "llama"])
def test_adapters_and_their_head(bases, tmp_path, name):
    peft = pytest.importorskip("peft")
    there, base = bases(name)
    lora = LoraConfig(rank=4, alpha=6.0, targets=("query", "out"))
    run = with_tasks(base, tmp_path / "run", TASKS[:1], lora)
    outputs = predict_texts(run, "classification")[-1]
    actual = np.array([output["probabilities"] for output in outputs])
    export(run.folder, tmp_path / "merged")
    _, reference = reference_outputs(tmp_path / "merged", "classification")
    np.testing.assert_allclose(actual, torch.softmax(reference.logits, -1).numpy(), atol=1e-4)
    export(run.folder, tmp_path / "adapter", to="peft")
    auto = transformers.AutoModelForSequenceClassification
    model = auto.from_pretrained(there, num_labels=3, pad_token_id=0)
    model = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        reference = model(**tokenizer(TEXTS, padding=True, return_tensors="pt"))
    np.testing.assert_allclose(actual, torch.softmax(reference.logits, -1).numpy(), atol=1e-4)
