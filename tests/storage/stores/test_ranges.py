"""Ranges of objects, and requests that fail."""

from unittest import mock

import pytest

from llmjax.errors import UserError
from llmjax.storage.stores import ranges
from llmjax.storage.stores.block_cache import BlockCache
from llmjax.storage.stores.path import location
from llmjax.storage.stores.ranges import ByteRange, RangeReader

ROOT = location("s3://bucket/tokens")
WANTED = [ByteRange(ROOT / "a", 0, 3), ByteRange(ROOT / "b", 5, 2)]


class Files:
    """A file system whose requests fail as told, and the paths that each call asked for."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def cat_ranges(self, paths, starts, ends, **options):
        self.asked.append([path.rpartition("/")[2] for path in paths])
        return self.answers.pop(0)


def reader(*answers) -> tuple[RangeReader, Files]:
    files = Files(*answers)
    with mock.patch.object(type(ranges.STORES["s3"]), "filesystem", return_value=files):
        return RangeReader(ROOT), files


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(ranges.time, "sleep", waited.append)
    return waited


def test_what_failed_is_requested_again(waits):
    opened, files = reader([OSError("reset"), b"de"], [OSError("reset")], [b"abc"])
    assert opened.read(WANTED) == [b"abc", b"de"]
    assert files.asked == [["a", "b"], ["a"], ["a"]]
    assert waits == list(ranges.WAITS[:2])


def test_the_last_failure_is_named(waits):
    opened, _ = reader([OSError("reset"), b"de"], *([OSError("reset")] for _ in ranges.WAITS))
    with pytest.raises(UserError, match="tokens/a: the store refused the request: reset"):
        opened.read(WANTED)
    assert waits == list(ranges.WAITS)


@pytest.mark.parametrize(
    ("error", "message"),
    [(FileNotFoundError("b"), "b: does not exist"), (PermissionError("b"), "b: permission denied")],
)
def test_what_stays_wrong_is_not_requested_again(waits, error, message):
    opened, _ = reader([b"abc", error])
    with pytest.raises(UserError, match=message):
        opened.read(WANTED)
    assert waits == []


def test_an_object_that_is_too_short_is_named():
    opened, _ = reader([b"abc", b"d"])
    with pytest.raises(UserError, match=r"tokens/b: has 1 bytes from byte 5 on, and not 2"):
        opened.read(WANTED)


def test_local_files(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    assert RangeReader(tmp_path).read([ByteRange(tmp_path / "a", 3, 4)]) == [b"3456"]
    with pytest.raises(UserError, match="b: cannot be read: No such file"):
        RangeReader(tmp_path).read([ByteRange(tmp_path / "b", 3, 4)])


def test_the_cache_ends_at_its_limit(tmp_path):
    cache = BlockCache(tmp_path / "blocks", "key", 1 << 20)
    for number in range(40):
        cache.write("key/0", number << 16, bytes([number + 1]) * (1 << 16))
    found = [
        number for number in range(40) if cache.read("key/0", number << 16, 1 << 16).strip(b"\0")
    ]
    assert found == list(range(len(found)))
    assert 12 <= len(found) <= 17  # of 16, and what the file system adds
    again = BlockCache(tmp_path / "blocks", "key", 1 << 20)
    again.write("key/1", 0, b"x")
    assert again.read("key/1", 0, 1) == b""
    assert again.read("key/0", 0, 4) == b"\1\1\1\1"
    nothing = BlockCache(tmp_path / "none", "key", 0)
    nothing.write("key/0", 0, b"x")
    assert not (tmp_path / "none").exists()


def test_a_full_cache_makes_room_by_stores_that_nobody_uses(tmp_path):
    block = bytes([1]) * (1 << 16)
    left = BlockCache(tmp_path, "left", 1 << 20)
    for number in range(12):
        left.write("left/0", number << 16, block)
    del left
    used = BlockCache(tmp_path, "used", 1 << 20)
    used.write("used/0", 0, block)
    new = BlockCache(tmp_path, "new", 1 << 20)
    for number in range(8):
        new.write("new/0", number << 16, block)
    assert new.read("new/0", 7 << 16, 1 << 16) == block
    assert not (tmp_path / "left").exists()
    assert used.read("used/0", 0, 1 << 16) == block
    opened = BlockCache(tmp_path, "opened", 1 << 16)  # a lower limit, and all others in use
    opened.write("opened/0", 0, block)
    assert opened.read("opened/0", 0, 1) == b""
    assert new.read("new/0", 0, 1 << 16) == block


def test_a_disk_that_cannot_be_written_stops_the_keeping(tmp_path, caplog):
    (tmp_path / "blocks").write_text("a file")
    cache = BlockCache(tmp_path / "blocks", "key", 1 << 20)
    for _ in range(2):
        cache.write("key/0", 0, b"x")
    assert caplog.text.count("no more blocks are kept") == 1
    assert cache.read("key/0", 0, 1) == b""
