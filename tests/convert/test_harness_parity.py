"""In the harness, an imported model answers as the harness's own adapter of Transformers' does."""

import hf_models
import numpy as np
import pytest

from llmjax.convert.importing import import_model
from llmjax.evaluation.harness_model import HarnessModel

TEXTS = ["Is water wet?", "A longer prompt, with two parts: ", "", "née </s> 🙂"]
WRITTEN = TEXTS[:2]  # of others it writes ids beyond the tokenizer's, which we never do
CHOICES = [" yes", " no", "wet 🙂", "n"]


class Request:
    """What the harness asks, as it asks it."""

    def __init__(self, *args):
        self.args = args


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def both(request, tmp_path_factory):
    pytest.importorskip("torch")  # the harness's adapter runs on it
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp(request.param)
    hf_models.build(request.param, folder / "hf")
    run = import_model(folder / "hf", folder / "run")
    theirs = HFLM(
        pretrained=str(folder / "hf"),
        tokenizer=PreTrainedTokenizerFast.from_pretrained(folder / "hf"),
        device="cpu",
        dtype="float32",
        max_length=64,
    )
    return HarnessModel(run, max_length=64), theirs


def test_likelihoods(both):
    ours, theirs = both
    requests = [Request(text, choice) for text in TEXTS for choice in CHOICES]
    found, wanted = (
        model.loglikelihood(list(requests), disable_tqdm=True) for model in (ours, theirs)
    )
    np.testing.assert_allclose([f[0] for f in found], [w[0] for w in wanted], atol=1e-3)
    assert [f[1] for f in found] == [w[1] for w in wanted]


def test_rolling_likelihoods(both):
    ours, theirs = both
    requests = [Request("Words, " * n) for n in (1, 5, 30)]
    found, wanted = (model.loglikelihood_rolling(requests, True) for model in (ours, theirs))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_written_texts(both):
    ours, theirs = both
    settings = {"until": ["\n", "e"], "max_gen_toks": 9, "do_sample": False}
    requests = [Request(text, dict(settings)) for text in WRITTEN]
    found, wanted = (model.generate_until(list(requests), True) for model in (ours, theirs))
    assert found == wanted
