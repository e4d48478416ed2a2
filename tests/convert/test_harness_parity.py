"""In lm-evaluation-harness, imported models score like its own Transformers adapter."""

import hf_models
import numpy as np
import pytest

from llmjax.convert.importing import import_model
from llmjax.evaluation.harness_model import HarnessModel

TEXTS = ["Is water wet?", "A longer prompt, with two parts: ", "", "née </s> 🙂"]
PROMPTS = TEXTS[:2]  # for others it generates ids beyond the tokenizer's, unlike llmjax
CHOICES = [" yes", " no", "wet 🙂", "n"]


class Request:
    """A request of the harness."""

    def __init__(self, *args):
        self.args = args


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def both(request, tmp_path_factory):
    pytest.importorskip("torch")  # the harness's adapter runs on it
    pytest.importorskip("transformers")
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp(request.param)
    hf_models.build(request.param, folder / "hf")
    run = import_model(folder / "hf", folder / "run")
    reference = HFLM(
        pretrained=str(folder / "hf"),
        tokenizer=PreTrainedTokenizerFast.from_pretrained(folder / "hf"),
        device="cpu",
        dtype="float32",
        max_length=64,
    )
    return HarnessModel(run, max_length=64), reference


def test_likelihoods(both):
    harness_model, reference = both
    requests = [Request(text, choice) for text in TEXTS for choice in CHOICES]
    actual, expected = (
        model.loglikelihood(list(requests), disable_tqdm=True)
        for model in (harness_model, reference)
    )
    np.testing.assert_allclose(
        [pair[0] for pair in actual], [pair[0] for pair in expected], atol=1e-3
    )
    assert [pair[1] for pair in actual] == [pair[1] for pair in expected]


def test_rolling_likelihoods(both):
    harness_model, reference = both
    requests = [Request("Words, " * n) for n in (1, 5, 30)]
    actual, expected = (
        model.loglikelihood_rolling(requests, True) for model in (harness_model, reference)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_generated_texts(both):
    harness_model, reference = both
    settings = {"until": ["\n", "e"], "max_gen_toks": 9, "do_sample": False}
    requests = [Request(text, dict(settings)) for text in PROMPTS]
    actual, expected = (
        model.generate_until(list(requests), True) for model in (harness_model, reference)
    )
    assert actual == expected
