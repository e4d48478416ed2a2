"""Readers give the text of documents with its place."""

import itertools
from pathlib import Path

import pytest

from llmjax.errors import UserError
from llmjax.retrieval.files import find_files, read_document

pytestmark = pytest.mark.once


def read(path: Path, content: str | bytes) -> list[tuple]:
    """Text, heading, page, line, last line of each block."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [(block.text, *block.place) for block in read_document(str(path))]


def pdf(*pages: str) -> bytes:
    """A PDF of these pages, written by hand."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET"
        objects += [
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * number} 0 R >>",
            f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        ]
    content, offsets = "%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        offsets.append(len(content))
        content += f"{number} 0 obj\n{text}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    end = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
    return f"{content}{end}startxref\n{len(content)}\n%%EOF\n".encode()


def test_text(tmp_path):
    text = "\ufeff\n\nOne\nline two\n \t\n\n  Three é\n"
    assert read(tmp_path / "a.txt", text) == [
        ("One\nline two", "", None, 3, 4),
        ("Three é", "", None, 7, 7),
    ]
    assert read(tmp_path / "a.txt", "") == []
    assert read(tmp_path / "a.TXT", "a\r\n\r\nb") == [
        ("a", "", None, 1, 1),
        ("b", "", None, 3, 3),
    ]


def test_lines_are_counted_across_chunks(tmp_path):
    lines = [f"line {number}" + "\n" * (number % 3 == 0) for number in range(1, 60000)]
    blocks = read(tmp_path / "a.txt", "\n".join(lines))
    written = "\n".join(lines).split("\n")
    for text, _, _, first, last in blocks:
        assert text == "\n".join(written[first - 1 : last])


def test_a_huge_text_is_streamed(tmp_path):
    path = tmp_path / "huge.txt"
    with open(path, "wb") as file:
        file.write(b"a paragraph\n\n" * 20000)
        file.truncate(1 << 40)  # a sparse file of a tebibyte
    blocks = list(itertools.islice(read_document(str(path)), 3))
    assert [block.text for block in blocks] == ["a paragraph"] * 3


def test_markdown(tmp_path):
    text = """Intro

# Top

Para one
goes on.

## Sub *title*

- item
- other

```
# no heading
```

| a | b |
|---|---|
| 1 | 2 |

# Next
end
"""
    assert read(tmp_path / "a.md", text) == [
        ("Intro", "", None, 1, 1),
        ("Para one\ngoes on.", "Top", None, 5, 6),
        ("- item", "Top > Sub *title*", None, 10, 10),
        ("- other", "Top > Sub *title*", None, 11, 11),
        ("```\n# no heading\n```", "Top > Sub *title*", None, 13, 15),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "Top > Sub *title*", None, 17, 19),
        ("end", "Next", None, 22, 22),
    ]


def test_html(tmp_path):
    text = """<!doctype html><title>no</title><style>p {}</style>loose
    <h1>Top <i>one</i></h1><p>A  <b>bold</b>
    word<br>and &amp; more<script>no</script><ul><li>one<li>two <a href=x>link</a></ul>
    <h2>Sub</h2><table><tr><td>a<td>b</tr></table><pre>x
  y</pre>"""
    assert read(tmp_path / "a.html", text) == [
        ("loose", "", None, None, None),
        ("A bold word\nand & more", "Top one", None, None, None),
        ("one", "Top one", None, None, None),
        ("two link", "Top one", None, None, None),
        ("a b", "Top one > Sub", None, None, None),
        ("x\n  y", "Top one > Sub", None, None, None),
    ]
    deep = "<div>" * 5000 + "deep" + "</div>" * 5000
    assert [block[0] for block in read(tmp_path / "deep.html", deep)] == ["deep"]


def test_pdf(tmp_path):
    assert read(tmp_path / "a.pdf", pdf("First page", "Second page")) == [
        ("First page", "", 1, None, None),
        ("Second page", "", 2, None, None),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff\xfea\0", "is UTF-16"),
        ("a.txt", b"fine\n\xe9", "is not UTF-8: byte 0xe9 at offset 5"),
        ("a.md", b"\xe9", "is not UTF-8"),
        ("a.html", b"<p>\xe9", "is not UTF-8"),
        ("a.pdf", b"no pdf", "cannot be read as PDF"),
        ("a.pdf", pdf("First page")[:300], "cannot be read as PDF"),
    ],
)
def test_damaged_documents_are_named(tmp_path, name, content, message):
    with pytest.raises(UserError, match=rf"{name}: {message}"):
        read(tmp_path / name, content)


def test_what_is_parsed_whole_is_bounded(tmp_path):
    for name in ("a.md", "a.html"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(1 << 30)
        with pytest.raises(UserError, match="at most"):
            list(read_document(str(tmp_path / name)))


def test_files_are_found(tmp_path, monkeypatch):
    for name in ("b.txt", "a.md", "sub/c.HTML", "sub/.hidden/d.txt", ".e.txt", "f.py", "g.txt"):
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    monkeypatch.chdir(tmp_path)
    found = find_files(["docs", "docs/g.txt", "gone.txt"])
    docs = tmp_path / "docs"
    names = ("a.md", "b.txt", "g.txt", "sub/c.HTML")
    assert found.found == tuple(str(docs / name) for name in names)
    assert found.missing == (str(tmp_path / "gone.txt"),)
    indexed = [str(docs / "b.txt"), str(docs / "old.txt"), str(tmp_path / "gone.txt"), "/x.txt"]
    assert found.gone(indexed) == indexed[1:3]
    with pytest.raises(UserError, match=r"f\.py: has no suffix of a document; those are \.txt"):
        find_files(["docs/f.py"])
