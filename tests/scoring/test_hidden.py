"""Scores of hidden tokens: sums per document, and intervals."""

import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.data.objectives.masked import MaskedConfig
from llmjax.data.objectives.pairs import PrefixConfig
from llmjax.data.objectives.vocabulary import make_objective
from llmjax.data.text.corpus import Document
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.errors import UserError
from llmjax.losses.token_loss import token_loss
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.scoring.hidden import hidden_batches, score_hidden, token_store
from untrained import drawn

BYTES = BytesTokenizer()
SIZES = {"d_model": 16, "num_heads": 2, "d_ff": 32, "max_length": 16}
CASES = {
    "masked": (MaskedConfig(share=0.4), {"num_encoder_layers": 1, "num_decoder_layers": 0}),
    "prefix": (PrefixConfig(), {"num_decoder_layers": 1}),
    "both": (PrefixConfig(), {"num_encoder_layers": 1, "num_decoder_layers": 1}),
}
# Each document has a different letter, so that every target identifies its document.
DOCUMENTS = [
    Document(np.full(size, ord("a") + number, np.int32), size)
    for number, size in enumerate([5, 40, 1, 17, 16, 9, 30])
]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    objective, shape = CASES[request.param]
    model = Model(resolve(ModelConfig(**SIZES, **shape), BYTES.vocab_size))
    hides = make_objective(objective, BYTES, is_encoder_decoder=model.config.is_encoder_decoder)
    return model, drawn(model), hides


def told_of(letter, model, params, hides):
    """(nats, tokens, correct) of the targets that are this letter."""
    sums = np.zeros(3)
    for batch, _ in hidden_batches(token_store(DOCUMENTS), hides, 4, 16):
        weights = np.where(batch["targets"] == letter, batch["weights"], 0)
        given = {name: jnp.asarray(array) for name, array in (batch | {"weights": weights}).items()}
        loss = token_loss(model, params, given)
        sums += [*map(float, loss.sums["loss"]), float(loss.sums["accuracy"].total)]
    return sums


@pytest.mark.once
def test_each_document_has_its_own_sums(case):
    model, params, hides = case
    result = score_hidden(model, params, hides, DOCUMENTS, context=16, batch_size=4)
    each = result.per_document
    expected = np.array([told_of(ord("a") + k, *case) for k in range(len(DOCUMENTS))])
    np.testing.assert_allclose(each.nats, expected[:, 0], rtol=1e-4, atol=1e-4)
    assert each.tokens.tolist() == expected[:, 1].tolist()
    assert each.correct.tolist() == expected[:, 2].tolist()
    assert each.bytes.tolist() == [document.bytes for document in DOCUMENTS]
    assert result.tokens == each.tokens.sum() > 20
    assert result.correct == each.correct.sum()
    assert result.nats == pytest.approx(each.nats.sum(), rel=1e-12)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    shared = score_hidden(
        model, drawn(model, mesh=mesh), hides, DOCUMENTS, context=16, batch_size=4, mesh=mesh
    )
    np.testing.assert_allclose(shared.per_document.nats, each.nats, rtol=1e-4, atol=1e-4)
    assert shared.per_document.tokens.tolist() == each.tokens.tolist()


def test_intervals_are_of_what_is_hidden(case):
    result = score_hidden(*case, DOCUMENTS, context=16, batch_size=4)
    figures = result.intervals()
    assert list(figures) == ["loss", "perplexity", "accuracy"], "no bits per byte"
    low, high = figures["loss"]
    assert low < result.loss_per_token < high
    low, high = figures["accuracy"]
    assert low <= result.accuracy <= high
    assert score_hidden(*case, DOCUMENTS[1:2], context=16).intervals() == {}


def test_what_cannot_be_scored(case):
    with pytest.raises(UserError, match="is empty; give at least one byte"):
        score_hidden(*case, [], context=16)
    with pytest.raises(UserError, match="context 17"):
        score_hidden(*case, DOCUMENTS, context=17)
