"""Progress where stderr is no terminal."""

import time

from llmjax.data.progress import terminal_progress


def test_a_line_every_ten_seconds(capsys, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with terminal_progress() as progress:
        progress("Reading", 1, None)  # too early
        for done, total in ((2_500_000, 10_000_000), (2_500_000, None), (0, None)):
            now += 11
            progress("Reading", done, total)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["Reading: 2.5 MB (25 %)", "Reading: 2.5 MB", "Reading"]
