"""The stored costs of tokens: by position, and piece by piece for a passage."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from compress_runs import files

from llmjax.compression.compress import compress, training_file
from llmjax.compression.results import CompressionResult, TokenCosts, first_position
from llmjax.compression.streams import EncodedTokens
from llmjax.data.text.text_files import TextSource
from llmjax.data.text.tfds import EmbeddedSource
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


@pytest.mark.once
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


def result(**changes):
    costs = TokenCosts(BytesTokenizer())
    costs.add(*encoded("abcdefg", range(7)), used=changes.pop("used", True))
    values = {
        "source": "text",
        "bytes": 7,
        "archive_bytes": 400,
        "header_bytes": 300,
        "model_bytes": 17_000_000,
        "seconds": 1.0,
        "compile_seconds": 0.5,
        "verify_seconds": None,
        "streams": 1,
        "context": 16,
        "stride": 8,
        "costs": costs,
        "baselines": (),
    }
    return str(CompressionResult(**values | changes))


def test_the_summary_says_how_much_the_model_encoded():
    assert "encoded by the model" not in result()
    assert "NOT USED" not in result()
    assert "  70.0% of the input encoded by the model; zstd" in result(bytes=10)
    unused = result(used=False)
    assert "THE MODEL WAS NOT USED" in unused
    assert "--no-fallback" in unused
    assert "NOT USED" not in result(used=False, bytes=0)


def test_the_summary_gives_the_models_size_as_a_share_only_where_that_means_something():
    assert "needs too: 17,000,000 bytes\n" in result()
    assert "17,000,000 bytes (together 170.0% of the input)" in result(bytes=10_000_235)


def test_files_that_the_model_was_trained_on_are_found(tmp_path):
    for name in ("a.txt", "b.md"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / name).write_text(name)
    sources = (
        TextSource((str(tmp_path / "gone.txt"),)),
        EmbeddedSource(),
        TextSource((str(tmp_path / "folder/*.txt"),)),
    )
    trained = tmp_path / "folder/a.txt"
    assert training_file(sources, str(trained)) == trained
    assert training_file(sources, str(tmp_path / "folder")) == trained
    assert training_file(sources, str(tmp_path / "folder/b.md")) is None
    assert training_file(sources, "-") is None
