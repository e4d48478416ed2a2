"""The last archive on the page: bars, bits by context, and a passage by its costs."""

import json

import pytest
from pages import page

RESULT = {
    "source": "/somewhere/<b>x.txt",
    "bytes": 1000,
    "archive_bytes": 200,
    "model_bytes": 5_000_000,
    "seconds": 12.0,
    "verify_seconds": None,
    "step": 40,
    "compared": [
        {"name": "xz -9e", "compressed_bytes": 300, "original_bytes": 1000, "seconds": 0.1},
        {"name": "brotli 11", "compressed_bytes": 250, "original_bytes": 1000, "seconds": 0.2},
    ],
    "at": [[0, 90.0, 10, 20], [1, 70.0, 10, 20], [3, 50.0, 10, 20], [7, 1.0, 1, 2]],
    "passage": [["<i>The", 9.5, True], [" cat\n", 0.25, False], ["\x00", 13.0, False]],
}


def test_the_last_archive_is_shown(demo):
    (demo / "compression.json").write_text(json.dumps(RESULT))
    document = page(demo)
    for text in (
        "As a compressor",
        "<b>x.txt, 1 kB as 200 bytes, 20.0 % of the input, by the checkpoint of step 40",
        "llmjax 1.6000 200 \N{MINUS SIGN}33.3 %",
        "brotli 11 2.0000 250 \N{MINUS SIGN}16.7 % 0.20",
        "The bar does not include the model's 5 MB",
        "5,000.20 times the input, 40,001.6 bits per byte",
        "Including the size of the model, it would beat brotli 11 from about 100 MB",
        "not verified",
        "3 pieces of text: 23 bits",
    ):
        assert text in document.text, text
    spans = [(x["class"], x["title"]) for x in document.all("span") if "title" in x]
    assert spans == [("bits5", "9.50 bits"), ("bits0", "0.25 bits"), ("bits6", "13.00 bits")]
    assert " cat↵\n" in document.source
    assert any("4.50 with 1, 2.50 from 4 on" in svg["aria-label"] for svg in document.all("svg"))


@pytest.mark.parametrize(
    "stored",
    [
        [],
        {"bytes": 0, "archive_bytes": 30},
        {"bytes": 9, "archive_bytes": 30},
        RESULT | {"at": [[1], 3, [0, "a", 1, 1]], "passage": [3, ["a"], ["b", None, 0]]},
        RESULT | {"compared": [{"name": "xz"}, 4], "source": None, "step": "x"},
        RESULT | {"compared": None, "passage": []},
    ],
    ids=range(6),
)
def test_a_damaged_file_still_gives_a_page(demo, stored):
    (demo / "compression.json").write_text(json.dumps(stored))
    assert "Training curves" in page(demo).text


def test_a_run_that_compressed_nothing_has_no_such_section(demo):
    assert "As a compressor" not in page(demo).text
