"""Runs, archives, exports and imports in buckets, against a real S3 server (and a GCS one)."""

import json

import pytest

import untrained
from llmjax.errors import UserError
from llmjax.run.folder import Run
from llmjax.storage.stores.path import location
from llmjax.storage.stores.transfer import UNFINISHED, publish_folder
from object_stores import SERVERS


@pytest.fixture(scope="module", params=SERVERS)
def server(request):
    with SERVERS[request.param]() as server:
        yield server


@pytest.fixture(scope="module")
def address(server, tmp_path_factory):
    """The address of a run with the checkpoints of steps 3 and 7."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    run = untrained.make_run(folder)
    target = location(server.address("runs/one"))
    publish_folder(run.folder, target)
    return str(target)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path / "cache"))


def test_a_run_is_read_with_what_it_needs(address):
    run = Run.open(address)
    assert run.steps() == [3, 7]
    values = [path for path in run.folder.rglob("d/*") if path.is_file()]
    assert not values


def test_commands_read_a_run(server, address, command, tmp_path):
    text = location(server.address("texts/some.txt"))
    text.write_bytes(b"the cat sees a bird\n" * 3)
    code, out, err = command("evaluate", address, "--data", str(text), "--json")
    assert (code, err) == (0, err), err
    assert json.loads(out.splitlines()[-1])["run"] == address
    copy = Run.open(address).folder
    held = {p.relative_to(copy).parts[1] for p in copy.glob("checkpoints/*/params/**/d/*")}
    assert held == {"7"}  # the values of the checkpoint that was read
    code, _, err = command("generate", address, "--prompt", "the", "--max-new-tokens", "2")
    assert code == 0, err
    code, _, err = command("report", address)
    assert code == 0, err
    page = location(f"{address}/report.html").read_bytes(1 << 24)
    assert f"llmjax generate {address}".encode() in page
    code, out, err = command("runs", "--folder", server.address("runs"), "--json")
    assert code == 0, err
    assert [entry["run"] for entry in json.loads(out)["runs"]] == [address]


def test_archive_in_a_bucket(server, address, command, tmp_path):
    source, archive = tmp_path / "plain", server.address("archives/a.llmz")
    source.write_bytes(b"the cat sees a bird\n" * 5)
    packed = ("compress", address, str(source), archive, "--no-verify", "--no-compare")
    code, _, err = command(*packed)
    assert code == 0, err
    record = location(f"{address}/compression.json").read_bytes(1 << 24)
    assert json.loads(record)["bytes"] == 100
    code, _, err = command(*packed)
    assert (code, err[-1]) == (
        2,
        f"llmjax: error: {archive}: exists; choose another name, or remove it",
    )
    code, _, err = command("inspect", archive, "--json")
    assert code == 0, err
    back = server.address("archives/plain")
    code, _, err = command("decompress", address, archive, back)
    assert code == 0, err
    assert location(back).read_bytes(200) == source.read_bytes()


def test_damaged_checkpoint_is_skipped(server, address, tmp_path):
    folder = Run.open(address).folder
    name = next(name for name in location(address).files() if "7/params/" in name and "/d/" in name)
    original = location(f"{address}/{name}")
    content = original.read_bytes(1 << 24)
    original.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    from llmjax.run.checkpoint.reading import newest_complete

    try:
        Run.open(address)
        assert newest_complete(folder / "checkpoints", "params") == (3, [7])
    finally:
        original.write_bytes(content)


def test_unfinished_upload_is_refused(server, address):
    marker = location(f"{address}/{UNFINISHED}")
    marker.write_bytes(b"{}")
    with pytest.raises(UserError, match="is incomplete"):
        Run.open(address)
    marker.unlink()


def test_what_is_missing_is_named(server, command):
    line = f"llmjax: error: {server.address('runs/none')}: no such folder; check the path"
    assert command("generate", server.address("runs/none"), "--prompt", "x")[2][-1] == line
    code, _, err = command("train", "smoke", "--run-dir", f"{server.scheme}://")
    assert code == 2
    assert "names no bucket" in " ".join(err)
