"""A port of this machine that leads to the coordinator, and stays open when that dies.

JAX's client ends the process with a stack of C++ the moment its connection to the coordinator
breaks. Behind this port it notices nothing, and the link has time to say what has happened.
"""

import contextlib
import os
import socket
import threading
import time

from llmjax.parallel.distributed.roll_call import REPORT, Place

LOCAL = "127.0.0.1"
NO_PROXY = ("no_grpc_proxy", "no_proxy")
"""Where gRPC looks for hosts that it connects to itself."""


def forward(place: Place) -> str:
    """Opens the port; its address, for as long as this process lives."""
    listener = socket.create_server((LOCAL, 0))
    threading.Thread(target=_accept, args=(listener, place), daemon=True).start()
    if any(name.lower().endswith("_proxy") for name in os.environ):
        # gRPC would ask the environment's proxy to connect to it.
        kept = next(filter(None, map(os.environ.get, NO_PROXY)), None)
        os.environ[NO_PROXY[0]] = ",".join(filter(None, [kept, LOCAL]))
    return f"{LOCAL}:{listener.getsockname()[1]}"


def _accept(listener: socket.socket, place: Place) -> None:
    while True:
        near, _ = listener.accept()
        threading.Thread(target=_pass_on, args=(near, place), daemon=True).start()


def _pass_on(near: socket.socket, place: Place) -> None:
    """Connects to the coordinator, and passes on what either side sends."""
    far, end = None, time.monotonic() + REPORT
    while far is None and time.monotonic() < end:  # it opens its port just now
        try:
            far = socket.create_connection((place.host, place.port), timeout=REPORT)
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
    """Copies bytes until the source ends; the target stays open."""
    with contextlib.suppress(OSError):
        while part := source.recv(1 << 16):
            target.sendall(part)
