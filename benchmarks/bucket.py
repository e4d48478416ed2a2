"""A bucket for benchmarks: an S3 server in a process of its own (moto)."""

import contextlib
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple


class Bucket(NamedTuple):
    """What is shared with the server; its bucket is s3://bucket."""

    latency: Any
    """`value`: seconds after which it answers a request; may be changed."""
    requests: Any
    """`value`: requests that it got so far."""


@contextlib.contextmanager
def bucket() -> Iterator[Bucket]:
    """Runs a server with an empty bucket, which this process and those it starts then use."""
    context = multiprocessing.get_context("spawn")
    shared = Bucket(context.Value("d", 0.0), context.Value("q", 0))
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(*shared, there), daemon=True)
    server.start()
    try:
        host, port = here.recv()
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        import s3fs

        s3fs.S3FileSystem().mkdir("bucket")
        yield shared
    finally:
        server.kill()


def _serve(latency: Any, requests: Any, ready: Connection) -> None:
    """Runs the server until the process is ended."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication
    from moto.server import ThreadedMotoServer

    call = DomainDispatcherApplication.__call__

    def delayed(self: Any, environ: Any, start_response: Any) -> Any:
        with requests.get_lock():
            requests.value += 1
        time.sleep(latency.value)
        return call(self, environ, start_response)

    DomainDispatcherApplication.__call__ = delayed
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    ready.send(server.get_host_and_port())
    time.sleep(1e9)
