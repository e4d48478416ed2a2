"""The lock of a run in a bucket: an object that its owner renews.

A lock that does not change for STALE seconds belongs to nobody any more, and another training takes
it over. No clocks are compared: who wants the lock watches it. A lock of a process of this machine
that has ended is taken over at once.

Whoever finds another's token in the lock has lost it, and stops. Two that take over the same lock
at the same time both see, after SETTLE seconds, whose token was written last.
"""

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from llmjax.errors import UserError
from llmjax.storage.json_documents import parse_json
from llmjax.storage.stores.path import StorePath

log = logging.getLogger(__name__)

RENEWED = 20.0
"""Seconds between renewals."""
STALE = 80.0
"""Seconds without a renewal after which a lock belongs to nobody."""
SETTLE = 1.0
"""Seconds between taking a lock over and reading whose it is."""
POLL = 2.0
"""Seconds between looks at another's lock."""
_LIMIT = 1 << 16


class StoreLock:
    """Holds the lock at `path` from `with` on; all threads may call `check` and `confirm`."""

    def __init__(self, path: StorePath):
        self.path = path
        self._owner = {"host": socket.gethostname(), **_process(), "time": time.time()}
        self._token = secrets.token_hex(8)
        self._beats, self._confirmed, self._lost = 0, 0.0, ""
        self._writing, self._ends = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._renew_often, name="run_lock", daemon=True)

    def __enter__(self) -> "StoreLock":
        """Raises:
        UserError: another training holds it, or the bucket cannot be written.
        """
        if not self._create():
            self._take_over()
        self._confirmed = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Removes the lock, if it is still this process's."""
        self._ends.set()
        with self._writing, contextlib.suppress(UserError):
            if not self._lost and self._is_ours(self._read()):
                self.path.unlink()
                self._lost = "it was released"

    def confirm(self) -> None:
        """Checks that the lock is still held, before something is written; asks the store only if
        that was long ago.

        Raises:
          UserError: another training holds it, or the store cannot be asked.
        """
        if not self._lost and time.monotonic() - self._confirmed > 2 * RENEWED:
            with self._writing:
                self._renew()
        self.check()

    def check(self) -> None:
        """Checks that no other training is known to hold the lock; asks nobody.

        Raises:
          UserError: one does.
        """
        if self._lost:
            raise UserError(
                self.path.parent,
                f"this training has lost its lock: {self._lost}",
                "let only one training write there",
            )

    def _renew_often(self) -> None:
        while not self._ends.wait(RENEWED) and not self._lost:
            with self._writing, contextlib.suppress(UserError):  # the store may come back
                self._renew()

    def _renew(self) -> None:
        """Writes the lock again, unless another's is there."""
        found = self._read()
        if not self._is_ours(found):
            self._lost = f"{_named(found)} took it" if found else "it was removed"
            return
        if not self._ends.is_set():
            self._beats += 1
            self.path.write_bytes(self._text())
        self._confirmed = time.monotonic()

    def _create(self) -> bool:
        """Writes the lock if there is none; whether it did."""
        if self.path.is_file():
            return False
        try:
            self.path.write_bytes(self._text(), overwrite=False)
        except UserError:
            if not self.path.is_file():
                raise
            return False
        return True

    def _take_over(self) -> None:
        """Waits until the lock is stale, and replaces it."""
        first = self._read()
        if not _has_ended(first):
            log.warning(
                "%s: locked by %s; watching it for up to %.0f s",
                self.path.parent,
                _named(first),
                STALE,
            )
            end = time.monotonic() + STALE
            while time.monotonic() < end:
                time.sleep(min(POLL, STALE / 4))
                if (found := self._read()) != first:
                    if found is None:
                        break
                    raise self._refusal(found)
        if self._read() == first and first is not None:
            self.path.unlink()
        created = self._create()
        time.sleep(SETTLE)
        if not created or not self._is_ours(self._read()):
            raise self._refusal(self._read())

    def _refusal(self, owner: dict[str, Any] | None) -> UserError:
        reason = f"another training writes there ({_named(owner)})"
        return UserError(self.path.parent, reason, "wait for it, or choose another --run-dir")

    def _read(self) -> dict[str, Any] | None:
        """What the lock holds; None if there is none."""
        try:
            text = self.path.read_bytes(_LIMIT).decode("utf-8", "replace")
        except UserError:
            if self.path.is_file():
                raise
            return None
        try:
            found = parse_json(text, self.path)
        except UserError:
            found = {"text": text}
        return found if isinstance(found, dict) else {"text": text}

    def _is_ours(self, found: dict[str, Any] | None) -> bool:
        return found is not None and found.get("token") == self._token

    def _text(self) -> bytes:
        document = {**self._owner, "token": self._token, "renewed": self._beats}
        return json.dumps(document).encode()


def _named(owner: dict[str, Any] | None) -> str:
    owner = owner or {}
    return f"process {owner.get('pid', 'unknown')} on {owner.get('host', 'an unknown host')}"


def _process(pid: int | None = None) -> dict[str, Any]:
    """What identifies a process among all machines: the boot, the namespace, the number and the
    start, in ticks since the boot; less where the system does not tell."""
    identity: dict[str, Any] = {"pid": os.getpid() if pid is None else pid}
    with contextlib.suppress(OSError, IndexError):
        identity["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        identity["namespace"] = os.readlink("/proc/self/ns/pid")
        state, *numbers = (
            Path(f"/proc/{identity['pid']}/stat").read_text().rpartition(")")[2].split()
        )
        if state != "Z":
            identity["start"] = int(numbers[18])
    return identity


def _has_ended(owner: dict[str, Any] | None) -> bool:
    """Whether the owner was a process of this machine that runs no more."""
    if owner is None:
        return True
    pid, here = owner.get("pid"), _process()
    if type(pid) is not int or "start" not in here or "start" not in owner:
        return False
    if any(owner.get(name) != here[name] for name in ("boot", "namespace")):
        return False
    return bool(_process(pid).get("start") != owner["start"])
