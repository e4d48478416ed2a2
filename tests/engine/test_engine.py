"""The engine against `LanguageModel.generate`: alone, in company, on a mesh, from kept prefixes."""

from dataclasses import replace

import numpy as np
import pytest

from llmjax.decoding.config import DecodingConfig
from llmjax.engine.config import EngineConfig, RequestOptions
from llmjax.engine.engine import Busy, Engine
from llmjax.engine.grammars import Regex
from llmjax.engine.prefixes import PrefixCache
from llmjax.engine.shapes import Limits, Shape, next_shape
from llmjax.errors import UserError
from llmjax.inference.language_model import load
from llmjax.model.latent import LatentConfig
from llmjax.model.params import unstack_layers
from llmjax.parallel.mesh import MeshConfig, make_mesh, use_mesh
from task_runs import DECODER, begun
from untrained import drawn, in_hand

PROMPTS = ["ab", "", "The quick brown fox jumps", "zz" * 20, "ab"]
GREEDY = DecodingConfig(max_new_tokens=9, temperature=0.0)
SAMPLED = DecodingConfig(max_new_tokens=12, temperature=1.1, top_k=40, top_p=0.95, seed=3)
PENALISED = replace(SAMPLED, min_p=0.01, repetition_penalty=1.3, seed=2**32 - 7)
MIXED = [GREEDY, SAMPLED, PENALISED, replace(SAMPLED, seed=9), replace(SAMPLED, stop=("e", "a"))]
LATENT = LatentConfig(8, None, 4, 4, 4)
CHUNKS = {
    "num_decoder_layers": 2,
    "window": 8,
    "window_chunks": True,
    "global_layers": (1,),
    "unrotated_layers": (1,),
    "query_growth": 0.5,
    "query_growth_length": 4,
}
SMALL = EngineConfig(max_rows=4, prefill_chunk=16)


@pytest.fixture(scope="module")
def lm():
    return in_hand()


def engine_of(lm, config=SMALL, mesh=None):
    return Engine(lm.model, lm.params, lm.tokenizer, config, mesh)


def texts(outputs, joined=None):
    """id -> completion; its pieces add up to it."""
    pieces, done, tokens = joined or {}, {}, {}
    for output in outputs:
        pieces[output.id] = pieces.get(output.id, "") + output.text
        tokens[output.id] = [*tokens.get(output.id, []), *(info.token for info in output.tokens)]
        if output.completion is not None:
            assert output.completion.text == pieces[output.id]
            assert list(output.completion.tokens) == tokens[output.id]
            done[output.id] = output.completion
    return done


def company(engine, requests, every=2):
    """Completions in order, of requests that join one by one while others are decoded."""
    ids, outputs = [], []
    for prompt, config in requests:
        ids += engine.submit(prompt, RequestOptions(config))
        for _ in range(every):
            outputs += engine.step()
    done = texts([*outputs, *engine.run()])
    return [done[id] for id in ids]


def test_texts_in_company_are_those_of_generate(lm, monkeypatch):
    """Greedy and sampled; the cache grows, the longest prompt is read in three chunks."""
    monkeypatch.setattr("llmjax.engine.shapes.LEAST_LENGTH", 32)
    engine = engine_of(lm)
    requests = list(zip(PROMPTS, MIXED, strict=True))
    for (prompt, config), completion in zip(requests, company(engine, requests), strict=True):
        (expected,) = lm.generate(prompt, options=config)
        assert completion.tokens == expected.tokens
        assert completion.text == expected.text
        assert (completion.prompt, completion.finish) == (prompt, expected.finish)
        np.testing.assert_allclose(completion.nats, expected.nats, rtol=2e-4, atol=1e-5)
    assert engine.is_idle
    assert engine.shape.slots == 64


def test_with_a_fixed_shape_company_changes_no_bit(lm):
    config = replace(SMALL, fixed_shape=True)
    requests = list(zip(PROMPTS, MIXED, strict=True))
    together = company(engine_of(lm, config), requests)
    for request, completion in zip(requests, together, strict=True):
        assert company(engine_of(lm, config), [request]) == [completion]


def test_a_kept_prefix_is_not_read_again_and_changes_no_bit(lm):
    config = replace(SMALL, fixed_shape=True)
    first = "A conversation that goes on for quite a while. "
    warm, second = engine_of(lm, config), first + "And on."
    company(warm, [(first, GREEDY)])
    assert warm.prefixes.hits == 0
    answers = company(warm, [(second, SAMPLED), (second, GREEDY)])
    size = len(lm.tokenizer.prefix) + len(second.encode()) - 1
    assert warm.prefixes.hits == len(first) // 16 * 16 + size
    cold = replace(config, prefix_tokens=0)
    assert answers == company(engine_of(lm, cold), [(second, SAMPLED), (second, GREEDY)])


def test_samples_logprobs_and_several_steps_per_call(lm):
    options = RequestOptions(replace(SAMPLED, samples=3), top_logprobs=4)
    engine = engine_of(lm, replace(SMALL, steps_per_call=4, fixed_shape=True))
    ids, outputs = engine.submit("ab", options), []
    outputs = list(engine.run())
    done = texts(outputs)
    expected = lm.generate("ab", options=options.decoding)
    assert [done[id].tokens for id in ids] == [completion.tokens for completion in expected]
    for info in (info for output in outputs for info in output.tokens):
        logprobs = [logprob for _, logprob in info.top]
        assert len(logprobs) == 4
        assert logprobs == sorted(logprobs, reverse=True)
        assert -info.nats <= logprobs[0] + 1e-6
        assert dict(info.top).get(info.token, -info.nats) == pytest.approx(-info.nats, abs=1e-5)


def test_penalties_and_grammars_decide_what_follows(lm):
    engine = engine_of(lm, replace(SMALL, fixed_shape=True))
    (constrained,) = engine.submit("a", RequestOptions(GREEDY, grammar=Regex("(xyz){3}")))
    either = RequestOptions(GREEDY, frequency_penalty=2.0, grammar=Regex("[xy]{9}"))
    (balanced,) = engine.submit("a", either)
    (free,) = engine.submit("ab", RequestOptions(GREEDY))
    done = texts(engine.run())
    assert done[constrained].text == "xyz" * 3
    assert set(done[balanced].text) == {"x", "y"}
    assert done[free].tokens == lm.generate("ab", options=GREEDY)[0].tokens


def test_a_request_that_is_cancelled_frees_its_row(lm):
    engine = engine_of(lm, replace(SMALL, max_rows=1, max_waiting=2))
    long = RequestOptions(replace(GREEDY, max_new_tokens=60))
    first, second, third = (engine.submit(prompt, long)[0] for prompt in ("a", "b", "c"))
    with pytest.raises(Busy):
        engine.submit("d")
    engine.step()
    assert (engine.running, engine.waiting) == (1, 2)
    engine.cancel(first)
    engine.cancel(third)
    assert {output.id for output in engine.run()} == {second}
    engine.cancel(second)  # has ended
    assert engine.is_idle


def test_space_of_the_cache_bounds_how_many_run(lm):
    engine = engine_of(lm, replace(SMALL, cache_tokens=256))
    for prompt in "abc":
        engine.submit(prompt, RequestOptions(GREEDY))
    most = 0
    while not engine.is_idle:
        engine.step()
        most = max(most, engine.shape.rows * engine.shape.slots)
    assert most == 256
    with pytest.raises(UserError, match="exceeds the cache of 64"):
        engine_of(lm, replace(SMALL, cache_tokens=64)).submit("a")


def test_a_mesh_changes_no_text(lm):
    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    with use_mesh(mesh):
        params = unstack_layers(drawn(lm.model, mesh=mesh))
    requests = list(zip(PROMPTS[:3], MIXED[1:4], strict=True))
    config = replace(SMALL, fixed_shape=True)
    spread = Engine(lm.model, params, lm.tokenizer, config, mesh)
    alone, together = company(engine_of(lm, config), requests), company(spread, requests)
    assert [c.tokens for c in alone] == [c.tokens for c in together]


@pytest.mark.once
@pytest.mark.parametrize("kind", ["encoder-decoder", "latent attention", "windows", "chunks"])
def test_other_architectures(kind):
    shapes = {
        "encoder-decoder": {"num_encoder_layers": 1},
        "latent attention": {"mla": LATENT},
        "windows": {"window": 8, "positions": "learned"},
        "chunks": CHUNKS,
    }
    lm = in_hand(**{"num_decoder_layers": 1} | shapes[kind])
    engine = engine_of(lm, EngineConfig(max_rows=2, prefill_chunk=16, fixed_shape=True))
    prompts = ["The quick brown fox jumps", "The quick brown fox"]
    completions = company(engine, [(prompt, SAMPLED) for prompt in prompts])
    expected = lm.generate(prompts, options=SAMPLED)
    assert [c.tokens for c in completions] == [c.tokens for c in expected]


@pytest.mark.once
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_quantized_weights(weights, tmp_path):
    lm = load(begun(tmp_path / "run", DECODER), quantize=weights)
    engine = engine_of(lm, EngineConfig(max_rows=2, prefill_chunk=16, fixed_shape=True))
    prompts = ["The quick brown", "The quick"]
    completions = company(engine, [(prompt, SAMPLED) for prompt in prompts])
    expected = lm.generate(prompts, options=SAMPLED)
    assert [c.tokens for c in completions] == [c.tokens for c in expected]
    plain = load(tmp_path / "run").generate(prompts[:1], options=SAMPLED)
    assert completions[0].nats != plain[0].nats


def test_mistakes_are_named(lm):
    with pytest.raises(UserError, match="beams"):
        engine_of(lm).submit("a", RequestOptions(DecodingConfig(beams=2)))
    with pytest.raises(UserError, match="longer than the model's context of 128"):
        engine_of(lm).submit("a" * 200)
    with pytest.raises(UserError, match="power of two"):
        engine_of(lm, EngineConfig(prefill_chunk=20))


def test_shapes_follow_use_and_do_not_flutter():
    limits = Limits(rows=8, least_rows=2, context=300)
    assert limits.shape(1, 5) == Shape(2, 128)
    assert limits.shape(5, 129) == Shape(8, 256)
    assert limits.shape(5, 299) == Shape(8, 300)
    assert next_shape(Shape(4, 256), Shape(8, 128)) == Shape(8, 256)
    assert next_shape(Shape(8, 512), Shape(2, 256)) == Shape(2, 512)


class Sized:
    def __init__(self, length):
        self.length = length


def test_prefixes_share_whole_chunks_or_whole_prompts():
    kept = PrefixCache(limit=30, chunk=4)
    a = Sized(10)
    kept.add(range(10), False, a)
    assert kept.find(range(10), False) == (10, a)
    assert kept.find([*range(7), 99], False) == (4, a)
    assert kept.find([*range(3), 99], False) is None
    assert kept.find(range(10), True) is None
    assert kept.find(range(12), False, whole=True) is None
    kept.add([5] * 10, False, Sized(15))
    kept.find(range(10), False)
    kept.add([6] * 10, False, Sized(10))  # the least recently used makes room
    assert kept.find([5] * 10, False) is None
    assert kept.find(range(10), False) is not None
    assert kept.positions == 20
