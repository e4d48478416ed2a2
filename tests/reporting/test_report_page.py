"""The page: complete, safe, offline, readable by everyone, replaced in one piece."""

import json
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from pages import Document, page
from run_folders import ENVIRONMENT, SAMPLES, TEXT, demo_metrics, eval_line

from llmjax.data.config import DataConfig
from llmjax.data.text.text_files import TextSource
from llmjax.errors import UserError
from llmjax.evaluation.baselines import measure
from llmjax.reporting.report import report
from llmjax.run.folder import Run

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'{{ 7*7 }}"


def test_the_page_says_what_the_run_came_to(demo):
    text = page(demo).text
    bits = eval_line(1200)["bits_per_byte"]
    for expected in (
        f"{bits:.3f} bits per byte of validation text",
        f"{bits:.4f}",
        "A decoder of 6 layers, 256 wide, with 5.25M parameters",
        "1,200 steps (4.92M tokens) on 2.08 MB of text in 3 min 53 s on 2 CPU cores",
        "llmjax train configs/quickstart.py --steps 1200",
        "8,211 documents",
        "jax 0.10.2",
        "4f1c8e0a9f6d",
        "6 for each weight it is multiplied with",
        "unknown: the peak of this device is not known",
        "5.25M parameters 1 CPU device hardware (2 cores)",
        "n/a MFU, median",
        "Changed from the defaults",
        "statement is used to wrap",
    ):
        assert expected in text


def test_the_comparison_is_of_the_validation_text(demo):
    document = page(demo)
    for baseline in measure(TEXT):
        assert f"{baseline.name} {baseline.bits_per_byte:.4f}" in document.text
    xz = next(measure(TEXT)).bits_per_byte
    bits = eval_line(1200)["bits_per_byte"]
    assert f"{100 * (bits / xz - 1):.1f} % larger than xz -9e" in document.text
    widths = [float(a["style"].removeprefix("width:").removesuffix("%")) for a in document.all("i")]
    assert max(widths) == widths[-1] == 100
    assert widths == sorted(widths)


def test_every_curve_is_drawn_and_carries_its_values(demo):
    document = page(demo)
    labels = [svg["aria-label"] for svg in document.all("svg")]
    for title in (
        "Bits per byte",
        "Loss",
        "Learning rate",
        "Gradient norm",
        "Throughput",
        "Waiting",
    ):
        assert any(label.startswith(title) for label in labels)
    values = re.findall(r'<script type="application/json">(.*?)</script>', document.source)
    curves = [curve for block in values for curve in json.loads(block)]
    assert len(values) == 6
    assert all(curve["points"] for curve in curves)
    validation = [curve["points"][-1] for curve in curves if curve["name"] == "validation"]
    line = eval_line(1200)
    assert validation == [[1200, float(f"{line[key]:.4g}")] for key in ("bits_per_byte", "loss")]


@pytest.mark.parametrize("shape", ["demo", "empty"])
def test_the_page_needs_nothing_from_outside(maker, shape):
    lines = (demo_metrics(), SAMPLES, ENVIRONMENT) if shape == "demo" else ()
    document = page(maker.write(*lines))
    assert not {"link", "img", "iframe", "object", "base"} & {tag for tag, _ in document.elements}
    assert not [a for _, a in document.elements if "src" in a or "href" in a]
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttp|https?://", document.source)
    policies = [a for a in document.all("meta") if a.get("http-equiv")]
    assert policies[0]["content"].startswith("default-src 'none'")


def test_the_page_is_accessible(demo):
    document = page(demo)
    ids = [a["id"] for _, a in document.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert document.all("html")[0]["lang"] == "en"
    assert all(a["role"] == "img" and a["aria-label"] for a in document.all("svg"))
    assert len(document.all("caption")) == len(document.all("table"))
    assert {a["for"] for a in document.all("label")} == {a["id"] for a in document.all("input")}
    assert all(a.get("scope") for a in document.all("th"))
    assert len(document.all("h1")) == 1


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_letters_stand_out_in_light_and_dark(demo):
    css = page(demo).source
    themes = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", theme))
        for ink in ("ink", "muted", "accent", "train", *(f"run{n}" for n in range(8))):
            for ground in ("paper", "wash"):
                pair = sorted((luminance(colours[ink]), luminance(colours[ground])))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, f"{ink} on {ground}"


def test_nothing_hostile_becomes_markup(maker):
    config = replace(maker.config, samples=replace(maker.config.samples, prompts=(HOSTILE,)))
    maker = replace(maker, folder=maker.folder.with_name("<b>run&"), config=config)
    session = ENVIRONMENT["sessions"][0] | {"command": HOSTILE, "git_commit": HOSTILE}
    session |= {"versions": {HOSTILE: HOSTILE}, "machine": {"processor": HOSTILE}}
    folder = maker.write(
        demo_metrics(100),
        [{"step": 1, "prompt": HOSTILE, "text": HOSTILE + "\ud800\x00"}],
        ENVIRONMENT | {"sessions": [session]},
    )
    document = page(folder)
    assert "<img" not in document.source
    assert len(re.findall("<script", document.source)) == 6 + 1
    assert document.text.count("{{ 7*7 }}") >= 4
    assert "<b>run&" in document.text
    assert "<b>run" not in document.source


def test_sizes_outlive_the_text(demo, monkeypatch):
    first = page(demo)

    def gone(run, config):
        raise UserError("a.txt", "no such file")

    monkeypatch.setattr("llmjax.reporting.report.validation_text", gone)
    second = page(demo)
    assert "Sizes from an earlier report; the text is not available now (a.txt: no such file)" in (
        second.text
    )
    assert "compressed when this page was written" in first.text
    assert "compressed when this page was written" not in second.text
    assert re.findall(r"brotli 11 [\d.]+", first.text) == re.findall(
        r"brotli 11 [\d.]+", second.text
    )
    for broken in ("{", "[]", '{"baselines": [{"name": 3}]}', '{"baselines": []}'):
        (demo / "baselines.json").write_text(broken)
        assert "No compressor was run: a.txt: no such file." in page(demo).text


def test_validation_text_is_the_corpus_own(maker, tmp_path, monkeypatch):
    from llmjax.reporting.compressors import validation_text

    monkeypatch.setattr("llmjax.reporting.report.validation_text", validation_text)
    lines = [f"Line {n} says {n * n}, and no other line does.\n" for n in range(400)]
    (tmp_path / "text.txt").write_text("".join(lines))
    source = TextSource(paths=(str(tmp_path / "text.txt"),), split="line")
    data = DataConfig((source,), 2, 16, validation_fraction=0.3, cache_dir=str(tmp_path / "cache"))
    folder = replace(maker, config=replace(maker.config, data=data)).write()
    text = validation_text(Run.open(folder), Run.open(folder).config())
    validation = [line for line in lines if line.strip().encode() in text]
    assert 80 < len(validation) < 160
    assert f"{len(text):,} bytes in one piece" in page(folder).text
    (tmp_path / "text.txt").unlink()
    assert "Sizes from an earlier report" in page(folder).text


def test_no_validation_text_is_no_comparison(demo, monkeypatch):
    monkeypatch.setattr("llmjax.reporting.report.validation_text", lambda run, config: b"")
    assert "No compressor was run: validation text" in page(demo).text


def test_out_is_where_one_asks_and_replaced_in_one_piece(demo, tmp_path):
    assert report(demo) == demo / "report.html"
    out = tmp_path / "new" / "page.html"
    assert report(str(demo), out) == out
    before = out.stat().st_ino
    report(demo, out)
    assert out.stat().st_ino != before, "renamed over, not written into"
    assert [p.name for p in out.parent.iterdir()] == ["page.html"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o644


def test_what_cannot_be_written_is_the_users_mistake(demo, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        report(demo, tmp_path / "file" / "page.html")
    with pytest.raises(UserError, match="cannot be written"):
        report(demo, tmp_path)


def test_a_folder_that_takes_no_figures_still_gets_its_page(demo, tmp_path):
    (demo / "baselines.json").mkdir()
    assert "xz -9e" in Document(report(demo, tmp_path / "page.html")).text


def test_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such run folder"):
        report(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a run folder"):
        report(tmp_path)


def test_the_template_ships_with_the_package():
    import llmjax.reporting

    folder = Path(llmjax.reporting.__file__).parent
    for name in ("base.html", "comparison.html", "macros.html", "page.html", "page.css", "page.js"):
        assert (folder / name).is_file()
