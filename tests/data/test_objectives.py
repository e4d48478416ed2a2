"""Objectives: configs, mixtures, and batches as functions of seed and step."""

from dataclasses import replace

import numpy as np
import pytest

from data.objective_rows import BOS, PAD, cut, keys, vocabulary
from data.test_loader import equal, take
from llmjax.data.loader import batch_at, read_rows
from llmjax.data.objectives.causal import Causal, CausalConfig, Prefix
from llmjax.data.objectives.masked import Masked, MaskedConfig
from llmjax.data.objectives.mixture import Mixture, MixtureConfig
from llmjax.data.objectives.pairs import Continuation, PrefixConfig, SpanConfig, Spans
from llmjax.data.objectives.vocabulary import make_objective as make
from llmjax.data.order import RowOrder, rows_per_epoch
from llmjax.data.text.corpus import prepare
from llmjax.data.tokenizers.config import BytesConfig, SentencePieceConfig, load_tokenizer
from llmjax.errors import UserError
from llmjax.parallel.mesh import MeshConfig, make_mesh

BYTES = BytesConfig().open()
CAUSAL = Causal(BOS, PAD)
MASKED = make(MaskedConfig(), BYTES, is_encoder_decoder=False)
OBJECTIVES = {
    "masked": MASKED,
    "words": make(MaskedConfig(whole_words=True), BYTES, is_encoder_decoder=False),
    "prefix": make(PrefixConfig(), BYTES, is_encoder_decoder=False),
    "span": Spans(SpanConfig(), vocabulary()),
    "cut": make(PrefixConfig(), BYTES, is_encoder_decoder=True),
}
OBJECTIVES["mixture"] = Mixture([OBJECTIVES["span"], OBJECTIVES["cut"]], [1.0, 2.0])


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    return OBJECTIVES[request.param]


def test_the_loader_yields_what_batch_at_defines_and_resumes_exactly(small, objective):
    from llmjax.data.loader import CorpusFeed, Loader

    def taken(start, count):
        with Loader(CorpusFeed(*small, 5, objective), None, start) as loader:
            return [next(loader) for _ in range(count)]

    for step, batch in [*taken(0, 4), *taken(2, 2)]:
        equal(batch, batch_at(*small, 5, step, objective))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_draw_their_own_rows_of_the_same_batch(small, objective, hosts):
    corpus, config = small
    order, step = RowOrder(corpus, config, 5), 7
    shares = np.split(np.arange(config.batch_size), hosts)
    parts = [read_rows(corpus, order, step, share.tolist(), objective) for share in shares]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    equal(joined, batch_at(corpus, config, 5, step, objective))


def test_any_mesh_holds_the_same_batch(small, objective):
    import jax

    from llmjax.data.loader import CorpusFeed, Loader

    mesh = make_mesh(MeshConfig(fsdp=2, sequence=4), jax.devices()[:8])
    with Loader(CorpusFeed(*small, 5, objective), mesh, 3) as loader:
        step, batch = next(loader)
    equal(batch, batch_at(*small, 5, step, objective))


def test_every_epoch_and_every_seed_draws_new_masks(small):
    corpus, config = small
    epoch_config = replace(config, batch_size=rows_per_epoch(corpus, config))
    hidden = []
    for seed, epoch in [(5, 0), (5, 1), (6, 0)]:
        batch = batch_at(corpus, epoch_config, seed, epoch, MASKED)
        hidden.append(batch["weights"])
    for first, second in [(0, 1), (0, 2)]:
        same = (hidden[first] * hidden[second]).sum() / hidden[first].sum()
        assert same < 0.25, "the same places are hidden again"
    # Also for rows of equal text: the random numbers depend on the row's number.
    windows = cut([500], 1, 400).take(np.zeros(2, int))
    batch = Masked(MaskedConfig(), vocabulary()).batch(windows, keys(2))
    assert (batch["weights"][0] != batch["weights"][1]).any()


def test_a_mixture_gives_each_row_what_its_part_gives_it():
    windows, names = cut([30] * 40, 300, 40), keys(300)
    parts = [Masked(MaskedConfig(share=share), vocabulary()) for share in (0.1, 0.5)]
    mixture = Mixture(parts, [3.0, 1.0])
    chosen = mixture.choose(names)
    assert chosen.mean() == pytest.approx(0.25, abs=0.08)
    batch = mixture.batch(windows, names)
    for number, part in enumerate(parts):
        alone = part.batch(windows, names)
        for name, values in batch.items():
            np.testing.assert_array_equal(values[chosen == number], alone[name][chosen == number])


def test_a_mixture_pads_to_its_longest_part():
    windows, names = cut([30] * 40, 50, 128), keys(50)
    mixture = Mixture([Spans(SpanConfig(), vocabulary()), Continuation(vocabulary())], [1, 1])
    assert {array.shape for array in mixture.spec(50, 128).values()} == {(50, 128)}
    batch = mixture.batch(windows, names)
    assert {values.shape for values in batch.values()} == {(50, 128)}
    assert (batch["targets"][batch["segments"] == 0] == PAD).all()
    assert set(mixture.choose(names).tolist()) == {0, 1}


def test_a_prefix_has_no_weight_and_is_otherwise_causal():
    windows, names = cut([30, 5, 0, 1] * 20, 20, 64), keys(20)
    batch, causal = Prefix(CAUSAL).batch(windows, names), CAUSAL.batch(windows, names)
    for name in set(causal) - {"weights"}:
        np.testing.assert_array_equal(batch[name], causal[name])
    for weights, segments in zip(batch["weights"], batch["segments"], strict=True):
        for segment in set(segments[segments > 0].tolist()):
            document = weights[segments == segment]
            assert document[0] == 0
            assert (np.diff(document) >= 0).all(), "weight, and none behind it"
            assert document[-1] == (len(document) > 1)
    assert 0.3 < batch["weights"].sum() / causal["weights"].sum() < 0.7


def test_a_tokenizer_trained_for_an_objective_has_its_pieces(lines, small, tmp_path):
    _, config = small
    config = replace(config, cache_dir=str(tmp_path / "cache"), sources=(lines,))
    objective = MixtureConfig((MaskedConfig(), SpanConfig(sentinels=5)))
    pieces = objective.control_pieces
    size = SentencePieceConfig(vocab_size=310)
    plain, _ = prepare(config, size)
    assert plain.mask_id is None
    tokenizer, _ = prepare(config, size, tmp_path / "tokenizer", special_tokens=pieces)
    assert tokenizer.vocab_size == plain.vocab_size == 310
    assert tokenizer.special_tokens["<mask>"] == tokenizer.mask_id
    assert load_tokenizer(tmp_path / "tokenizer").mask_id == tokenizer.mask_id
    assert (
        tokenizer.decode(tokenizer.encode("a <mask> b <extra_id_0>")) == "a <mask> b <extra_id_0>"
    )
    assert not set(tokenizer.encode("<mask><extra_id_0>")) & {*tokenizer.special_tokens.values()}
    spans = make(SpanConfig(sentinels=5), tokenizer, is_encoder_decoder=True)
    assert spans.vocabulary.sentinels.tolist() == [
        tokenizer.special_tokens[f"<extra_id_{i}>"] for i in range(5)
    ]
    with pytest.raises(UserError, match="has no mask token"):
        make(MaskedConfig(), plain, is_encoder_decoder=False)
    with pytest.raises(UserError, match=r"no 9 sentinels \(it has 5\)"):
        make(SpanConfig(sentinels=9), tokenizer, is_encoder_decoder=True)


def test_bytes_have_a_mask_and_no_sentinels():
    assert MASKED.vocabulary.mask == BYTES.mask_id
    with pytest.raises(UserError, match="sentinels"):
        make(SpanConfig(), BYTES, is_encoder_decoder=True)


@pytest.mark.parametrize(
    ("objective", "layers", "expected"),
    [
        (CausalConfig(), (2, 0), "causal needs a decoder, the model is an encoder"),
        (CausalConfig(), (2, 2), "which trains by span or prefix"),
        (MaskedConfig(), (0, 2), "masked needs an encoder, the model is a decoder"),
        (SpanConfig(), (0, 2), "span needs an encoder-decoder, the model is a decoder"),
        (PrefixConfig(), (2, 0), "prefix needs an encoder-decoder or decoder"),
        (MixtureConfig((SpanConfig(), CausalConfig())), (2, 2), "objective.parts.1: causal needs"),
        (MixtureConfig(()), (2, 2), "objective.parts: give at least one"),
        (MaskedConfig(share=0.0), (2, 0), "objective.share: 0.0"),
        (MaskedConfig(masked=0.8, random=0.3), (2, 0), "objective.masked: 0.8 and random 0.3"),
        (MaskedConfig(weight=0.0), (2, 0), "objective.weight: 0.0"),
        (SpanConfig(density=1.0), (2, 2), "objective.density: 1.0"),
        (SpanConfig(mean_length=0.5), (2, 2), "objective.mean_length: 0.5"),
        (SpanConfig(sentinels=0), (2, 2), "objective.sentinels: 0"),
    ],
)
def test_unsuitable_objectives_are_named(objective, layers, expected):
    (problem,) = objective.problems(*layers)
    assert expected in problem


def test_suitable_objectives_pass():
    for objective, layers in [
        (CausalConfig(), (0, 2)),
        (PrefixConfig(), (0, 2)),
        (MaskedConfig(), (2, 0)),
        (MixtureConfig(), (2, 2)),
    ]:
        assert not list(objective.problems(*layers))


def test_causal_is_what_a_loader_takes_without_an_objective(small):
    corpus, _ = small
    for step, batch in take(*small, 2):
        equal(batch, batch_at(*small, 5, step, Causal(corpus.bos_id, corpus.pad_id)))
