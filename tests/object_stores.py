"""Real servers of object stores in threads of the tests: S3 (moto) and GCS (an emulator)."""

import contextlib
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from unittest import mock

BUCKET = "bucket"


@dataclass
class Server:
    """A running server, which all libraries in this process use."""

    scheme: str
    requests: list[str] = field(default_factory=list)
    """Method, path and range of bytes of each request."""

    def asked_since(self, start: int) -> set[str]:
        """What was requested since there were `start` requests: libraries send a request again
        where a busy server breaks its connection."""
        return set(self.requests[start:])

    def address(self, key: str) -> str:
        return f"{self.scheme}://{BUCKET}/{key}"


@contextlib.contextmanager
def s3_server() -> Iterator[Server]:
    """An S3 server with one bucket."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication
    from moto.server import ThreadedMotoServer

    server = Server("s3")
    call = DomainDispatcherApplication.__call__

    def counted(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        server.requests.append(f"{method} {path} {environ.get('HTTP_RANGE', '')}".rstrip())
        return call(self, environ, start_response)

    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    with mock.patch.object(DomainDispatcherApplication, "__call__", counted):
        moto.start()
        host, port = moto.get_host_and_port()
        reset = f"http://{host}:{port}/moto-api/reset"  # its state outlives a server
        urllib.request.urlopen(urllib.request.Request(reset, method="POST")).close()
        settings = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        with mock.patch.dict(os.environ, settings):
            import s3fs

            s3fs.S3FileSystem.clear_instance_cache()
            s3fs.S3FileSystem().mkdir(BUCKET)
            yield server
            s3fs.S3FileSystem.clear_instance_cache()
        moto.stop()


@contextlib.contextmanager
def gcs_server() -> Iterator[Server]:
    """A GCS server with one bucket."""
    from gcp_storage_emulator import server as module
    from gcp_storage_emulator.server import RequestHandler, create_server

    server, read, end = Server("gs"), module._read_raw_data, b"\n--==0==--"
    emulator = create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)

    def log_message(self, format, *args):
        request = str(args[0]).rpartition(" ")[0]
        server.requests.append(f"{request} {self.headers.get('Range', '')}".rstrip())

    def with_whole_ends(handler):
        """The emulator takes a last "\r" of an object that gcsfs writes for a part of the line's
        end behind it, and drops it."""
        data = read(handler)
        return data[: -len(end)] + b"\r" + end if data and data.endswith(end) else data

    with (
        mock.patch.object(RequestHandler, "log_message", log_message),
        mock.patch.object(module, "_read_raw_data", with_whole_ends),
    ):
        emulator.start()
        port = emulator._api._httpd.server_port
        settings = {
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
            # Without it gcsfs asks Google's control API, over TLS, what kind of bucket it is.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
        with mock.patch.dict(os.environ, settings):
            import gcsfs

            gcsfs.GCSFileSystem.clear_instance_cache()
            yield server
            gcsfs.GCSFileSystem.clear_instance_cache()
        emulator.stop()


SERVERS = {"s3": s3_server, "gs": gcs_server}
