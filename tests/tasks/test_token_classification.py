"""Token classification: target tokens, split sentences, learning."""

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from llmjax.data.tables.table import Row
from llmjax.data.tokenizers.huggingface.tokenizer import HuggingFaceTokenizer
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.tasks.predict import compute_outputs, total_loss
from llmjax.tasks.token_classification import TokenClassificationTask
from task_models import eight_devices, opened, predicted, rows_of, trained

CONFIG = TokenClassificationTask()
ROWS = rows_of(
    {"tokens": ["Ada", "Lovelace", "wrote", "notes"], "tags": ["B-PER", "I-PER", "O", "O"]},
    {"tokens": "in Zürich it rains", "tags": "O B-LOC O O"},
    {"tokens": ["Ada"], "tags": ["B-PER"]},
)


def wordpiece():
    words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "ada", "love", "##lace", "wrote", "notes", "in"]
    words += ["zur", "##ich", "it", "rain", "##s"]
    inner = Inner(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(strip_accents=True, lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    inner.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]"])
    names = {"bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]", "mask_token": None}
    return HuggingFaceTokenizer(inner.to_str().encode(), names)


def test_tags_and_how_often_they_occur():
    task, _ = opened(CONFIG, ROWS)
    assert task.metadata.labels == ("B-LOC", "B-PER", "I-PER", "O")
    assert task.metadata.counts == (1, 2, 1, 5)
    assert task.head.outputs == 4


def test_the_first_token_of_each_word_has_its_tag():
    task, _ = opened(CONFIG, ROWS, wordpiece())
    first, second, _ = task.examples(ROWS)
    (segment,) = first.segments
    # [CLS] ada love ##lace wrote notes [SEP]
    assert list(segment.tokens) == [1, 4, 5, 6, 7, 8, 2]
    assert segment.weights == [0, 1, 1, 0, 1, 1, 0]
    assert segment.targets == [0, 1, 2, 0, 3, 3, 0]
    # [CLS] in zur ##ich it rain ##s [SEP]
    assert second.segments[0].weights == [0, 1, 1, 0, 1, 1, 0, 0]
    assert second.details.positions.tolist() == [1, 2, 4, 5]


def test_words_stand_behind_a_space_where_the_tokenizer_writes_spaces():
    task, _ = opened(CONFIG, ROWS)
    tokenizer = task.context.tokenizer
    first, *_ = task.examples(ROWS)
    assert tokenizer.decode(first.segments[0].tokens) == " Ada Lovelace wrote notes"
    assert [
        tokenizer.piece_bytes(first.segments[0].tokens[index]) for index in first.details.positions
    ] == [b" "] * 4


def test_long_sentences_are_split_between_words(caplog):
    words = [f"word{number}" for number in range(40)]
    rows = rows_of({"tokens": words, "tags": ["A", "B"] * 20}, {"tokens": "x" * 99, "tags": "A"})
    task, network = opened(CONFIG, rows)
    examples = task.examples(rows)
    assert "tokens are split: " in caplog.text
    assert all(example.length <= 48 for example in examples)
    assert [example.row for example in examples][-2:] == [0, 1]
    params = jax.jit(network.init)(jax.random.key(0))
    predictions = predicted(task, network, params, rows, examples)
    assert [len(prediction["tags"]) for prediction in predictions] == [40, 1]
    assert [len(prediction["probabilities"]) for prediction in predictions] == [40, 1]
    assert sum(sum(example.segments[0].weights) for example in examples) == 41


def test_a_word_that_the_tokenizer_drops_is_tagged_all_the_same():
    rows = rows_of({"tokens": ["ada", "\u200b", "in"], "tags": ["A", "B", "A"]})
    task, _ = opened(CONFIG, rows, wordpiece())
    (example,) = task.examples(rows)
    assert list(example.segments[0].tokens) == [1, 4, 0, 9, 2]
    assert len(example.details.positions) == 3


@pytest.fixture(scope="module")
def started():
    task, network = opened(CONFIG, ROWS)
    return task, network, jax.jit(network.init)(jax.random.key(1))


def test_the_loss_is_the_cross_entropy_of_the_tags(started):
    task, network, params = started
    examples = task.examples(ROWS)
    sums = total_loss(task, network.model, params, examples, 2, None)
    result = compute_outputs(task, network.model, params, examples, 2, None)
    nats = hits = 0.0
    for example, output in zip(examples, result, strict=True):
        targets = np.array(example.segments[0].targets)[example.details.positions]
        shares = output["probabilities"][example.details.positions]
        nats -= np.log(shares[np.arange(len(targets)), targets]).sum()
        hits += (shares.argmax(-1) == targets).sum()
    assert sums.weight == 9
    assert sums.nll == pytest.approx(nats, rel=1e-5)
    assert sums.correct == hits


def test_neighbours_in_a_row_and_devices_change_nothing(started):
    task, network, params = started
    examples = task.examples(ROWS)
    packed = compute_outputs(task, network.model, params, examples, 2, None)
    for example, output in zip(examples, packed, strict=True):
        (alone,) = compute_outputs(task, network.model, params, [example], 1, None)
        assert alone["probabilities"] == pytest.approx(output["probabilities"], abs=1e-5)
    full = total_loss(task, network.model, params, examples, 8, None)
    shared = total_loss(task, network.model, params, examples, 8, eight_devices())
    assert shared == pytest.approx(full, rel=1e-5)


def test_it_learns_and_is_evaluated():
    task, network = opened(CONFIG, ROWS)
    examples = task.examples(ROWS)
    params = trained(task, network, examples, 80)
    predictions = predicted(task, network, params, ROWS)
    assert predictions[0]["tags"] == ROWS[0].values["tags"]
    assert predictions[0]["entities"] == [
        {"kind": "PER", "text": "Ada Lovelace", "first": 0, "last": 1}
    ]
    assert predictions[1]["words"] == ["in", "Zürich", "it", "rains"]
    assert min(predictions[1]["probabilities"]) > 0.5
    result = task.metrics(ROWS, predictions)
    assert result.headline().name == "f1"
    assert result["f1"].value == result["accuracy"].value == 1


def test_rows_without_tags_have_no_weight(started):
    task, network, params = started
    rows = rows_of({"tokens": ["Ada", "wrote"]})
    (example,) = task.examples(rows)
    assert sum(example.segments[0].weights) == example.weight == 0
    assert len(predicted(task, network, params, rows)[0]["tags"]) == 2
    with pytest.raises(UserError, match="table line 1: has no column 'tags'"):
        task.metrics(rows, [{"tags": ["O", "O"]}])


def test_tags_that_are_no_entities_are_measured_one_by_one():
    rows = rows_of({"tokens": "it rains", "tags": ["PRON", "VERB"]})
    task, network = opened(CONFIG, rows)
    predictions = predicted(task, network, jax.jit(network.init)(jax.random.key(0)), rows)
    assert "entities" not in predictions[0]
    assert task.metrics(rows, predictions).headline().name == "accuracy"


def test_errors_are_one_line():
    with pytest.raises(UserError, match=r"table line 1, column 'tags': has 1 tags for 2 words"):
        opened(CONFIG, rows_of({"tokens": "a b", "tags": "O"}))
    with pytest.raises(UserError, match=r"table line 1, column 'tokens': has no words"):
        opened(CONFIG, rows_of({"tokens": [], "tags": []}))
    with pytest.raises(UserError, match="needs two labels or more"):
        opened(CONFIG, rows_of({"tokens": "a b", "tags": "O O"}))
    task, _ = opened(CONFIG, ROWS)
    with pytest.raises(UserError, match=r"dev line 3: label 'B-ORG': is not in the training set"):
        task.examples([Row("dev line 3", {"tokens": "a", "tags": "B-ORG"})])
    both = ModelConfig(d_model=32, num_encoder_layers=1, num_decoder_layers=1, num_heads=2)
    with pytest.raises(
        UserError,
        match="task token_classification: an encoder-decoder has no head for",
    ):
        opened(CONFIG, ROWS, model=both)


def test_decoders_tag_too():
    causal = ModelConfig(d_model=32, num_decoder_layers=1, num_heads=2, d_ff=64)
    task, network = opened(CONFIG, ROWS, model=causal)
    params = trained(task, network, task.examples(ROWS), 2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
