"""Formats keep the structure of documents, and give all of their text to translate."""

import io

import pytest

from llmjax.errors import UserError
from llmjax.translation.document import FORMATS
from llmjax.translation.formats.srt import broken

pytestmark = pytest.mark.once

MARKDOWN = """# A title #

Some *emphasized* text with `code` and a
[link](http://x.y/z "t") goes on.

Setext
======

> - quoted item
>   goes on
1. first
   - [x] nested

```
code stays
```

| Head | B |
|:-----|--:|
| cell `c` | 12 |

    indented code

<div>html stays</div>

A hard break\\
and the rest
"""
HTML = (
    '<!DOCTYPE html><html><head><title>Title</title><style>p {}</style></head><body><p class="x">'
    'One <b>two</b> &amp; three</p><code>code</code><p translate="no">Name</p>'
    '<img src="a.png" alt="a picture"></body></html>'
)
SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Hello there,</i>
my friend.

2
00:00:03,000 --> 00:00:04,000
12 ...
"""


def upper(suffix, content):
    """The texts of a document, and the document with each in capitals."""
    document = FORMATS[suffix]().parse(content.encode(), f"a{suffix}")
    return document.texts, document.render([text.upper() for text in document.texts]).decode()


@pytest.mark.parametrize(
    ("suffix", "content"), [(".txt", "  a\r\n\r\nb\n\n - 1\n"), (".html", HTML), (".srt", SRT)]
)
def test_what_is_not_changed_is_the_same(suffix, content):
    document = FORMATS[suffix]().parse(content.encode(), "a")
    rendered = document.render(document.texts).decode()
    if suffix == ".srt":  # lines of a subtitle are balanced anew
        content = content.replace(
            "<i>Hello there,</i>\nmy friend.", "<i>Hello\nthere,</i> my friend."
        )
        assert rendered.split() == content.split()
    else:
        assert rendered == content


def test_text():
    assert upper(".txt", "  one two\n\n3\nline\r\n") == (
        ["one two", "line"],
        "  ONE TWO\n\n3\nLINE\r\n",
    )
    assert upper(".txt", "") == ([], "")


def test_markdown():
    texts, rendered = upper(".md", MARKDOWN)
    assert (
        rendered
        == """# A TITLE #

SOME *EMPHASIZED* TEXT WITH `code` AND A [LINK](http://x.y/z "t") GOES ON.

SETEXT
======

> - QUOTED ITEM GOES ON
1. FIRST
   - [x] NESTED

```
code stays
```

| HEAD | B |
|:-----|--:|
| CELL `c` | 12 |

    indented code

<div>html stays</div>

A HARD BREAK\\
AND THE REST
"""
    )
    assert texts[:3] == ["A title", "Some", "emphasized"]


def test_html():
    texts, rendered = upper(".html", HTML)
    assert texts == ["Title", "One", "two", "& three", "a picture"]
    expected = HTML.replace("Title", "TITLE").replace("One", "ONE").replace("two", "TWO")
    expected = expected.replace("three", "THREE").replace("a picture", "A PICTURE")
    assert rendered == expected


def test_translations_are_no_markup():
    document = FORMATS[".html"]().parse(b"<p>x</p>", "a.html")
    assert b"<p>&lt;script&gt; &amp;</p>" in document.render(["<script> &"])


def test_subtitles():
    texts, rendered = upper(".srt", SRT)
    assert texts == ["Hello there,", "my friend."]
    lines = rendered.split("\n")
    assert lines[:2] == ["1", "00:00:01,000 --> 00:00:02,500"]
    assert " ".join(lines[2:4]) == "<i>HELLO THERE,</i> MY FRIEND."
    assert lines[4:] == ["", "2", "00:00:03,000 --> 00:00:04,000", "12 ...", ""]
    assert broken("aa bb cc dd", 2) == ["aa bb", "cc dd"]
    assert broken("word", 3) == ["word"]
    with pytest.raises(UserError, match=r"a\.srt: has no subtitles"):
        FORMATS[".srt"]().parse(b"text", "a.srt")


def test_word(tmp_path):
    import docx

    made = docx.Document()
    made.add_heading("A title", 1)
    paragraph = made.add_paragraph("Plain ")
    paragraph.add_run("and ")
    paragraph.add_run("bold").bold = True
    paragraph.add_run(" text.")
    made.add_paragraph("an item", style="List Bullet")
    table = made.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "cell", "42"
    made.sections[0].header.paragraphs[0].text = "header"
    out = io.BytesIO()
    made.save(out)
    document = FORMATS[".docx"]().parse(out.getvalue(), "a.docx")
    assert document.texts == ["A title", "Plain and", "bold", "text.", "an item", "cell", "header"]
    rendered = document.render([f"{text.upper()}\0\x14" for text in document.texts])
    again = docx.Document(io.BytesIO(rendered))
    assert [p.text for p in again.paragraphs] == ["A TITLE", "PLAIN AND BOLD TEXT.", "AN ITEM"]
    assert [p.style.name for p in again.paragraphs] == [p.style.name for p in made.paragraphs]
    assert [run.text for run in again.paragraphs[1].runs if run.bold] == ["BOLD"]
    assert [cell.text for cell in again.tables[0].rows[0].cells] == ["CELL", "42"]
    assert again.sections[0].header.paragraphs[0].text == "HEADER"


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".txt", b"\xff", r"a\.txt: is not UTF-8"),
        (".docx", b"no zip", r"a\.docx: is no Word document"),
    ],
)
def test_damage_is_named(suffix, content, message):
    with pytest.raises(UserError, match=message):
        FORMATS[suffix]().parse(content, f"a{suffix}")
