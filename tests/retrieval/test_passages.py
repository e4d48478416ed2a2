"""Passages hold all of a document, in order, and each fits the model."""

import random

import pytest

from llmjax.retrieval.document import Block, Place
from llmjax.retrieval.passages import passages

pytestmark = pytest.mark.once


def characters(texts):
    """A tokenizer of characters."""
    return [len(text) for text in texts]


def document(seed):
    """Random paragraphs below a few headings, some far longer than a passage."""
    draw = random.Random(seed)
    line, blocks = 1, []
    for _ in range(40):
        words = [
            "".join(draw.choices("abcde", k=draw.randint(1, 12)))
            for _ in range(draw.randint(1, 60))
        ]
        text = "".join(word + draw.choice([" ", " ", ". ", "\n"]) for word in words).strip()
        heading = draw.choice(["", "One", "One > Two", "A heading " * 12])
        last = line + text.count("\n")
        blocks.append(Block(text, Place(heading, None, line, last)))
        line = last + 2
    return blocks


@pytest.mark.parametrize("limit", [60, 200, 1000])
def test_nothing_is_lost_and_all_fits(limit):
    blocks = document(limit)
    found = list(passages(blocks, characters, limit))
    assert "".join("".join(passage.text for passage in found).split()) == "".join(
        "".join(block.text for block in blocks).split()
    )
    assert all(len(passage.with_heading) <= limit for passage in found)
    assert all(passage.text == passage.text.strip() for passage in found)


def test_passages_are_filled():
    found = list(passages([Block("x" * 10, Place())] * 100, characters, 100))
    assert {len(passage.text) for passage in found[:-1]} == {10 * 8 + 2 * 7}


def test_lines_are_those_of_the_document():
    blocks = document(7)
    lines = {}
    for block in blocks:
        lines |= dict(enumerate(block.text.split("\n"), block.place.line))
    for passage in passages(blocks, characters, 150):
        first, last = passage.place.line, passage.place.last_line
        written = "\n".join(lines.get(number, "") for number in range(first, last + 1))
        assert "".join(passage.text.split()) in "".join(written.split())


def test_headings_and_pages_are_not_mixed():
    blocks = [Block("a", Place("One")), Block("b", Place("One")), Block("c", Place("Two"))]
    assert [p.text for p in passages(blocks, characters, 100)] == ["a\n\nb", "c"]
    blocks = [Block("a", Place(page=1)), Block("b", Place(page=2))]
    assert [p.place.page for p in passages(blocks, characters, 100)] == [1, 2]


def test_long_paragraphs_are_cut_at_sentences_and_words():
    text = "The first sentence is here. The second one follows it. " * 5
    found = list(passages([Block(text.strip(), Place())], characters, 70))
    assert all(passage.text.endswith(".") for passage in found)
    words = [f"word{number}" for number in range(50)]
    found = list(passages([Block(" ".join(words), Place())], characters, 40))
    assert " ".join(passage.text for passage in found).split() == words
    (one, *_) = passages([Block("x" * 1000, Place())], characters, 40)
    assert 20 < len(one.text) <= 40


def test_documents_are_read_as_passages_are_taken():
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield Block(f"paragraph {taken} " * 5, Place())

    stream = passages(endless(), characters, 200)
    for _ in range(10):
        next(stream)
    assert taken < 200
