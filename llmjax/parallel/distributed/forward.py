"""Local port forwarding to the coordinator that stays open when the coordinator dies.

JAX's client aborts the process with a C++ stack trace as soon as its connection to the coordinator
breaks. Behind the local port it does not notice, and the link has time to report what happened.
"""

import contextlib
import os
import socket
import threading
import time

from llmjax.parallel.distributed.roll_call import REPORT, Rendezvous

LOCAL = "127.0.0.1"
NO_PROXY = ("no_grpc_proxy", "no_proxy")
"""Variables with hosts that gRPC connects to without a proxy."""


def forward(rendezvous: Rendezvous) -> str:
    """Opens a port for the life of this process, and returns its address."""
    listener = socket.create_server((LOCAL, 0))
    threading.Thread(target=_accept, args=(listener, rendezvous), daemon=True).start()
    if any(name.lower().endswith("_proxy") for name in os.environ):
        # gRPC would otherwise connect through the proxy.
        hosts = next(filter(None, map(os.environ.get, NO_PROXY)), None)
        os.environ[NO_PROXY[0]] = ",".join(filter(None, [hosts, LOCAL]))
    return f"{LOCAL}:{listener.getsockname()[1]}"


def _accept(listener: socket.socket, rendezvous: Rendezvous) -> None:
    while True:
        near, _ = listener.accept()
        threading.Thread(target=_relay, args=(near, rendezvous), daemon=True).start()


def _relay(near: socket.socket, rendezvous: Rendezvous) -> None:
    """Connects to the coordinator and relays bytes in both directions."""
    far, end = None, time.monotonic() + REPORT
    while far is None and time.monotonic() < end:  # the coordinator may still be starting
        try:
            far = socket.create_connection((rendezvous.host, rendezvous.port), timeout=REPORT)
        except OSError:
            time.sleep(0.05)
    if far is None:
        near.close()
        return
    far.settimeout(None)
    threading.Thread(target=_pump, args=(far, near), daemon=True).start()
    _pump(near, far)
    with contextlib.suppress(OSError):
        far.shutdown(socket.SHUT_WR)


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Copies bytes until the source closes; leaves the target open."""
    with contextlib.suppress(OSError):
        while part := source.recv(1 << 16):
            target.sendall(part)
