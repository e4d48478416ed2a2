"""The stored costs of tokens: by position, and piece by piece for a passage."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from compress_runs import files

from llmjax.compression.compress import compress
from llmjax.compression.results import TokenCosts, first_position
from llmjax.compression.streams import EncodedTokens
from llmjax.data.tokenizers.table import BytesTokenizer


def encoded(text, positions):
    tokens = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    bits = np.arange(1, len(tokens) + 1, dtype=np.float64)
    return EncodedTokens([], bits, np.array(positions, np.int32)), tokens


def test_costs_add_up_by_position_and_over_frames():
    costs = TokenCosts(BytesTokenizer())
    for kept in (True, False):
        costs.add(*encoded("abcdefg", [0, 1, 2, 3, 0, 1, 2]), kept)
    assert (costs.tokens, costs.bits) == (7, 28.0)
    assert costs.octaves() == {0: (12.0, 4, 4), 1: (36.0, 8, 8), 2: (8.0, 2, 2)}
    assert sum(total.bits for total in costs.sums.values()) == 56
    assert not costs.passage


@pytest.mark.parametrize("position", [*range(70), 255, 256, 1023])
def test_ranges_of_positions_begin_where_they_say(position):
    costs = TokenCosts(BytesTokenizer())
    costs.add(*encoded("a", [position]), True)
    (part,) = costs.sums
    assert first_position(part) <= position < first_position(part + 1)


def test_a_passage_is_bounded_and_breaks_no_character():
    costs = TokenCosts(BytesTokenizer(), passage_tokens=5)
    costs.add(*encoded("né", [0, 1, 2]), True)
    costs.add(*encoded("abcd", [0, 1, 0, 1]), True)
    assert costs.passage == [("n", 1, True), ("é", 5, False), ("a", 1, True), ("b", 2, False)]


def test_the_run_keeps_what_an_archive_came_to(run, tmp_path):
    source = tmp_path / "text"
    source.write_bytes(files()["long"][:600])
    settings = {"streams": 2, "context": 16, "verify": False, "fallback": False}
    result = compress(run, source, tmp_path / "archive", passage=True, **settings)
    stored = json.loads((run / "compression.json").read_bytes())
    assert "".join(text for text, _, _ in stored["passage"]).encode() == source.read_bytes()
    assert sum(starts for _, _, starts in stored["passage"]) == 2
    for key in ("passage", "at"):
        assert sum(entry[1] for entry in stored[key]) == pytest.approx(result.costs.bits)
    names = [baseline.name for baseline in result.baselines]
    assert [entry["name"] for entry in stored["compared"]] == names
    (run / "compression.json").unlink()
    (tmp_path / "empty").write_bytes(b"")
    compress(run, tmp_path / "empty", tmp_path / "other", verify=False)
    stored = json.loads((run / "compression.json").read_bytes())
    assert stored["bits_per_byte"] is None
    assert stored["passage"] == []


def test_a_tokenizer_says_how_long_tokens_are():
    assert TokenCosts(SimpleNamespace(token_bytes=lambda: np.zeros(3))).octaves() == {}
