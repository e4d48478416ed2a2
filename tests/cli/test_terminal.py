"""Text that arrives in pieces is wrapped as if it had come at once."""

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmjax.cli.terminal import WordWrap


def wrapped(pieces, width):
    out = []
    wrap = WordWrap(out.append, width)
    for piece in pieces:
        wrap.feed(piece)
    wrap.flush()
    return "".join(out)


@given(st.lists(st.text("abc", min_size=1, max_size=8)), st.integers(8, 30))
def test_words_are_wrapped_as_textwrap_does(words, width):
    text = " ".join(words)
    assert wrapped([text], width) == textwrap.fill(text, width)


@given(st.text(), st.integers(4, 30), st.integers(1, 5))
def test_how_the_text_is_cut_into_pieces_does_not_matter(text, width, size):
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert wrapped(pieces, width) == wrapped([text], width)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f():\n    return 1", "def f():\n    return\n1"),
        ("日本語の文章です", "日本語の文\n章です"),
        ("a\x1b[2Jb\x07", "a[2Jb"),
        ("abcdefghijklmnop q", "abcdefghij\nklmnop q"),
    ],
)
def test_indentation_wide_characters_and_controls(text, expected):
    assert wrapped(text, 10) == expected
