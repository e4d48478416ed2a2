"""Paths in buckets, against real servers."""

import contextlib
import gzip
import os
import sys
from pathlib import Path
from unittest import mock

import pytest

from llmjax.errors import UserError
from llmjax.storage.stores import transfer
from llmjax.storage.stores.mirror import INDEX, address_of, fetch, local_copy, write_back
from llmjax.storage.stores.path import StorePath, is_store, location
from object_stores import SERVERS


@pytest.fixture(scope="module", params=SERVERS)
def server(request):
    with SERVERS[request.param]() as server:
        yield server


@pytest.fixture
def folder(server, request) -> StorePath:
    path = location(server.address(request.node.originalname))
    assert isinstance(path, StorePath)
    return path


def test_location():
    assert location("runs/a") == Path("runs/a")
    path = location("s3://b/some/text.txt.gz")
    assert isinstance(path, StorePath)
    assert (path.bucket, path.key) == ("b", "some/text.txt.gz")
    assert (path.name, path.stem, path.suffix) == ("text.txt.gz", "text.txt", ".gz")
    assert str(path) == "s3://b/some/text.txt.gz"
    assert str(location("gs://b/runs/") / "x/y") == "gs://b/runs/x/y"
    assert is_store("gs://b")
    assert not is_store("gs:/b")
    assert not is_store("runs/gs://b")
    with pytest.raises(UserError, match=r"s3:///x: names no bucket; write s3://BUCKET/NAME"):
        location("s3:///x")
    with pytest.raises(UserError, match=r"ftp://b/x: .*gs:// and local paths"):
        location("ftp://b/x")


def test_object(folder):
    path = folder / "file.bin"
    assert not path.is_file()
    assert not folder.is_dir()
    path.write_bytes(b"one")
    first = path.info()
    assert first.size == 3
    assert path.is_file()
    assert folder.is_dir()
    assert not folder.is_file()
    assert path.info() == first
    for data in (b"1\n", b"1\r\n", b"1\r", b"\r\r1\n\n"):
        path.write_bytes(data)
        assert path.read_bytes(limit=9) == data
    path.write_bytes(b"two")
    assert path.info().version != first.version
    assert path.read_bytes(3) == b"two"
    with pytest.raises(UserError, match="is 3 bytes, and at most 2 bytes are read"):
        path.read_bytes(2)
    with path.open() as file:
        assert file.seek(0, os.SEEK_END) == 3
        file.seek(1)
        assert file.read() == b"wo"
    path.unlink()
    assert not path.is_file()
    with pytest.raises(UserError, match=r"file\.bin: does not exist"):
        path.read_bytes(9)
    with pytest.raises(UserError, match=r"file\.bin: does not exist"):
        path.open()


def test_large_object_is_read_in_blocks(server, folder):
    path, data = folder / "large.bin", bytes(range(256)) * (5 << 12)  # 20 MiB
    path.write_bytes(data)
    start = len(server.requests)
    with path.open() as file:
        assert file.read() == data
    assert 0 < len(server.asked_since(start)) <= 6


def test_listing_and_globs(folder):
    for name in ("a.txt", "b/c.txt", "b/d/e.txt", "b/d/f.jsonl"):
        (folder / name).write_bytes(name.encode())
    assert list(folder.files()) == ["a.txt", "b/c.txt", "b/d/e.txt", "b/d/f.jsonl"]
    assert folder.files()["b/d/e.txt"] == (folder / "b/d/e.txt").info()

    def names(pattern):
        return [str(path).removeprefix(f"{folder}/") for path in (folder / pattern).glob()]

    assert names("*.txt") == ["a.txt"]
    assert names("**/*.txt") == ["a.txt", "b/c.txt", "b/d/e.txt"]
    assert names("b/?/[ef].*") == ["b/d/e.txt", "b/d/f.jsonl"]
    assert names("none/*") == []


def test_missing_bucket(server):
    path = location(f"{server.scheme}://no-such-bucket/x")
    line = f"{server.scheme}://no-such-bucket: no such bucket; create it, or check the name"
    for use in (path.info, lambda: path.write_bytes(b"x"), path.files, path.is_file):
        with pytest.raises(UserError) as caught:
            use()
        assert str(caught.value) == line


def test_without_the_extra(server):
    library, extra = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs")}[server.scheme]
    with mock.patch.dict(sys.modules, {library: None}), pytest.raises(UserError) as caught:
        location(server.address("x")).info()
    fix = f"pip install 'llmjax[{extra}]'"
    assert str(caught.value).endswith(f"x: is in a bucket, and {library} is not installed; {fix}")


def test_folder_is_published_last(folder, tmp_path, monkeypatch):
    for name in ("config.json", "z.bin", "tokenizer/t.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    order, upload = [], StorePath.upload

    def watched(self, file, **options):
        if not order:
            with pytest.raises(UserError, match="is incomplete: an upload is still running"):
                local_copy(folder)
        order.append(self.name)
        upload(self, file, **options)

    monkeypatch.setattr(StorePath, "upload", watched)
    monkeypatch.setattr(transfer, "TRANSFERS", 1)
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path / "cache"))
    transfer.publish_folder(tmp_path, folder)
    assert order == ["t.json", "z.bin", "config.json"]
    assert list(folder.files()) == ["config.json", "tokenizer/t.json", "z.bin"]
    with pytest.raises(UserError, match="already exists"):
        transfer.publish_folder(tmp_path, folder)


def test_failed_upload_leaves_nothing(folder, tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    upload = StorePath.upload

    def failing(self, file, **options):
        if self.name == "b":
            raise UserError(self, "permission denied")
        upload(self, file, **options)

    monkeypatch.setattr(StorePath, "upload", failing)
    with pytest.raises(UserError, match="permission denied"):
        transfer.publish_folder(tmp_path, folder)
    assert not folder.files()


def test_local_copy(server, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path))
    (folder / "small.json").write_bytes(b"1")
    (folder / "large/a").write_bytes(b"22")
    (folder / "large/b").write_bytes(b"333")

    def lazy(name):
        return name.startswith("large/")

    copy = local_copy(folder, lazy)
    assert address_of(copy) == str(folder)
    assert address_of(tmp_path) == str(tmp_path)
    assert sorted(p.name for p in copy.rglob("*") if p.is_file()) == [INDEX, "small.json"]
    fetch(copy, "large")
    assert (copy / "large/b").read_bytes() == b"333"
    fetch(tmp_path, "large")  # not a copy
    # An object that is still the same is not requested again.
    start = len(server.requests)
    assert local_copy(folder, lazy) == copy
    assert all("small" not in request for request in server.requests[start:])
    assert (copy / "large/b").is_file()
    (folder / "small.json").write_bytes(b"2")
    (folder / "large/a").unlink()
    (folder / "large/b").write_bytes(b"334")
    local_copy(folder, lazy)
    assert (copy / "small.json").read_bytes() == b"2"
    assert not (copy / "large/a").exists()
    assert not (copy / "large/b").exists()
    fetch(copy, "large/b")
    assert (copy / "large/b").read_bytes() == b"334"
    (copy / "measures.json").write_bytes(b"new")
    write_back(copy / "measures.json")
    assert (folder / "measures.json").read_bytes(9) == b"new"
    assert local_copy(folder, lazy) == copy
    with pytest.raises(UserError, match="nothing: no such folder"):
        local_copy(folder / "nothing")


def test_a_local_copy_of_what_changes_meanwhile(server, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path))
    (folder / "log").write_bytes(b"1")
    (folder / "old").write_bytes(b"1")
    download = StorePath.download

    def growing(self, file, changes):
        if changes:
            changes.pop()(self)
        download(self, file)

    def follow(*changes):
        left = list(changes)
        with monkeypatch.context() as patch:
            patch.setattr(StorePath, "download", lambda self, file: growing(self, file, left))
            return local_copy(folder)

    def append(path):
        log = path.parent / "log"
        log.write_bytes(log.read_bytes(99) + b"2")

    copy = follow(lambda path: (path.parent / "old").unlink(), append)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} | {INDEX: b""} == {
        "log": b"12",
        INDEX: b"",
    }
    append(folder / "log")
    with pytest.raises(UserError, match="log: changed while it was read"):
        follow(*[append] * 99)
    (folder / "log").unlink()
    (folder / "log").write_bytes(b"1")
    assert (follow() / "log").read_bytes() == b"1"


def test_gzip_of_another_kind_stays_damage(folder):
    """A library's OSError about the content is not one of the store."""
    path = folder / "x.gz"
    path.write_bytes(b"no gzip")
    with path.open() as file, pytest.raises(gzip.BadGzipFile):
        gzip.GzipFile(fileobj=file).read()


def test_no_credentials_and_no_connection(server, monkeypatch):
    import s3fs

    if server.scheme != "s3":
        pytest.skip("without credentials, gcsfs looks for those of the machine, over the network")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    path = location(server.address("x"))
    with pytest.raises(UserError, match=r"x: needs credentials, .*; set AWS_ACCESS_KEY_ID"):
        path.info()
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UserError, match="x: the store cannot be reached: "):
        path.info()
    s3fs.S3FileSystem.clear_instance_cache()


def test_permission_denied(server):
    path = location(server.address("x"))
    filesystem = mock.Mock()
    denied = {"s3": PermissionError("Access Denied"), "gs": OSError("Forbidden: u\nno access")}
    filesystem.info.side_effect = denied[server.scheme]
    with (
        mock.patch.object(type(path._store), "filesystem", return_value=filesystem),
        pytest.raises(UserError, match="x: permission denied; give the account the right"),
    ):
        path.info()


def test_new_file_appears_when_complete(folder):
    out = folder / "model.bin"
    with contextlib.suppress(KeyError), transfer.new_file(out) as file:
        file.write_bytes(b"part")
        raise KeyError
    assert not out.is_file()
    with transfer.new_file(out) as file:
        assert file.name == "model.bin"
        file.write_bytes(b"all")
    assert out.read_bytes(9) == b"all"
    with pytest.raises(UserError, match="already exists"), transfer.new_file(out):
        pass
