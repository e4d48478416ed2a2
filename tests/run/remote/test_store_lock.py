"""The lock of a run in a bucket."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from llmjax.errors import UserError
from llmjax.run.remote import lock
from llmjax.run.remote.lock import StoreLock
from llmjax.storage.stores.path import location
from object_stores import SERVERS


@pytest.fixture(scope="module", params=SERVERS)
def server(request):
    with SERVERS[request.param]() as server:
        yield server


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(lock, "RENEWED", 0.2)
    monkeypatch.setattr(lock, "STALE", 1.5)
    monkeypatch.setattr(lock, "SETTLE", 0.05)


@pytest.fixture
def path(server, request):
    return location(server.address(f"{request.node.name}/.lock"))


@pytest.mark.once
def test_second_is_refused_and_named(path):
    with StoreLock(path) as held:
        here = f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(UserError) as error, StoreLock(path):
            pass
        assert str(error.value) == (
            f"{path.parent}: another training writes there ({here}); wait for it, or choose "
            "another --run-dir"
        )
        held.check()
    assert not path.is_file()


def test_stale_one_is_taken_over_and_its_owner_notices(path, caplog):
    owner = {"token": "0", "host": "elsewhere", "pid": 7}
    path.write_bytes(json.dumps(owner).encode())
    begun = time.monotonic()
    with StoreLock(path) as held:
        assert time.monotonic() - begun > 1.5
        assert "locked by process 7 on elsewhere" in caplog.text
        path.write_bytes(json.dumps(owner).encode())
        held._thread.join(60)  # it renews no more
        with pytest.raises(UserError, match="lost its lock: process 7 on elsewhere took it"):
            held.check()
    assert path.is_file()


def test_lock_of_an_ended_process_of_this_machine_is_free(path, caplog):
    code = "from llmjax.run.remote.lock import _process; import json; print(json.dumps(_process()))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    path.write_bytes(json.dumps({**json.loads(ended), "token": "0"}).encode())
    with StoreLock(path):
        assert "watching" not in caplog.text


def test_of_many_at_once_one_gets_a_stale_one(path):
    path.write_bytes(b'{"token": "0"}')
    got, refused, begins = [], [], threading.Barrier(4)

    def want():
        mine = StoreLock(path)
        begins.wait()
        try:
            mine.__enter__()
            got.append(mine)
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    end = time.monotonic() + 30
    while len([taken for taken in got if not taken._lost]) > 1 and time.monotonic() < end:
        time.sleep(0.05)
    assert len([taken for taken in got if not taken._lost]) == 1
    for taken in got:
        taken.release()
