"""Each process computes the checksums of the files that it wrote; process 0 only collects them."""

import itertools
import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from llmjax.run.checkpoint import files
from llmjax.run.checkpoint.files import UNFINISHED, write_checksums, write_part
from llmjax.run.checkpoint.handler import SummingHandler
from llmjax.storage import checksums


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The names of the files that are read to be summed, in order."""
    names: list[str] = []
    sum_file = checksums._file_checksum

    def record(path: Path) -> list[int]:
        names.append(path.name)
        return sum_file(path)

    monkeypatch.setattr(checksums, "_file_checksum", record)
    return names


def test_what_each_process_wrote_is_read_by_it_alone(tmp_path, monkeypatch, read):
    unfinished = tmp_path / f"params{UNFINISHED}-7"
    written = {
        0: ["ocdbt.process_0/d/zero", "array_metadatas/process_0"],
        1: ["ocdbt.process_1/d/one", "ocdbt.process_1/manifest.ocdbt"],
        11: ["ocdbt.process_11/d/eleven"],
    }
    for name in itertools.chain.from_iterable(written.values()):
        (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
        (unfinished / name).write_text(name * 100)
    for process, names in written.items():
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        read.clear()
        write_part(tmp_path)
        assert sorted(read) == sorted(Path(name).name for name in names)
    unfinished.rename(tmp_path / "params")
    (tmp_path / "params" / "manifest.ocdbt").write_text("merged")
    read.clear()
    write_checksums(tmp_path)
    assert read == ["manifest.ocdbt"]
    assert {path.name for path in tmp_path.iterdir()} == {"params", "checksums.json"}
    merged = (tmp_path / "checksums.json").read_text()
    checksums.write_manifest(tmp_path)
    assert (tmp_path / "checksums.json").read_text() == merged


def test_orbax_finalizes_after_the_files_are_summed(tmp_path, monkeypatch, read):
    summed: list[str] = []

    def collect() -> None:
        summed.extend(read)
        folder = next(tmp_path.glob(f"1{UNFINISHED}*"))
        read.clear()
        write_checksums(folder)

    options = ocp.options.AsyncOptions(post_finalization_callback=collect)
    arrays = {"w": jax.numpy.arange(1 << 18, dtype=np.float32)}
    with ocp.AsyncCheckpointer(SummingHandler(), async_options=options) as checkpointer:
        items = ocp.args.Composite(params=ocp.args.StandardSave(arrays))
        checkpointer.save(tmp_path / "1", args=items)
        checkpointer.wait_until_finished()
    named = json.loads((tmp_path / "1" / "checksums.json").read_text())
    data = [Path(name).name for name in named if name.startswith("params/ocdbt.process_0/d/")]
    assert data
    assert set(data) <= set(summed)
    assert not set(data) & set(read)
    assert files.damage(tmp_path, 1) is None
