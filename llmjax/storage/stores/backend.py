"""The object stores: their libraries (gcsfs, s3fs), their errors, and versions of their objects.

Both libraries are fsspec file systems, which find credentials and endpoints by themselves. To add a
store, subclass `Store` and add a line to STORES.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from llmjax.errors import UserError

LISTING_SIZE = 100_000
"""Maximum objects of a folder or a glob."""
BLOCK = 8 << 20
"""Bytes of an object that are requested at once; a reader holds at most two such blocks."""

CONNECTIONS = 64
"""Requests of a process that a store answers at the same time."""


class Store(ABC):
    """A kind of object store."""

    scheme: str
    """In addresses: SCHEME://BUCKET/KEY."""
    extra: str
    """The extra of llmjax that installs its library."""
    credentials: str
    """Where the library looks for credentials, as advice."""

    def filesystem(self) -> Any:
        """The fsspec file system; the library keeps one per process.

        Raises:
          ImportError: the extra is not installed.
        """
        return self._connect(use_listings_cache=False, default_block_size=BLOCK)

    @abstractmethod
    def _connect(self, **options: Any) -> Any:
        """Imports the library, and creates a file system."""

    @abstractmethod
    def failures(self) -> tuple[type[Exception], ...]:
        """What the library raises when a request fails."""

    @abstractmethod
    def version(self, info: Mapping[str, Any]) -> str:
        """What changes whenever an object is written, from the library's description of it."""

    @abstractmethod
    def is_unauthenticated(self, error: BaseException) -> bool:
        """Whether the library found no credentials, or the store refused them."""

    def is_forbidden(self, error: BaseException) -> bool:
        """Whether the credentials lack a permission."""
        return isinstance(error, PermissionError)

    @abstractmethod
    def is_unreachable(self, error: BaseException) -> bool:
        """Whether there was no connection."""

    @abstractmethod
    def lacks_bucket(self, error: BaseException) -> bool:
        """Whether a FileNotFoundError is about the bucket."""


class S3(Store):
    """Amazon S3 and stores of the same API, with s3fs."""

    scheme, extra = "s3", "s3"
    credentials = (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or an instance role"
    )

    def _connect(self, **options: Any) -> Any:
        import s3fs

        return s3fs.S3FileSystem(config_kwargs={"max_pool_connections": CONNECTIONS}, **options)

    def failures(self) -> tuple[type[Exception], ...]:
        from botocore import exceptions

        return OSError, exceptions.BotoCoreError, exceptions.ClientError

    def version(self, info: Mapping[str, Any]) -> str:
        return str(info["ETag"]).strip('"')

    def is_unauthenticated(self, error: BaseException) -> bool:
        from botocore import exceptions

        kinds = (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)
        codes = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
        return isinstance(error, kinds) or _code(error) in codes

    def is_unreachable(self, error: BaseException) -> bool:
        from botocore import exceptions

        return isinstance(error, (exceptions.HTTPClientError, exceptions.ConnectionError))

    def lacks_bucket(self, error: BaseException) -> bool:
        return _code(error) == "NoSuchBucket" or "bucket does not exist" in str(error)


class GCS(Store):
    """Google Cloud Storage, with gcsfs."""

    scheme, extra = "gs", "gcs"
    credentials = "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"

    def _connect(self, **options: Any) -> Any:
        import gcsfs

        return gcsfs.GCSFileSystem(**options)

    def failures(self) -> tuple[type[Exception], ...]:
        from aiohttp import ClientError
        from gcsfs.retry import HttpError
        from google.auth.exceptions import GoogleAuthError

        return OSError, HttpError, GoogleAuthError, ClientError

    def version(self, info: Mapping[str, Any]) -> str:
        return str(info["generation"])

    def is_unauthenticated(self, error: BaseException) -> bool:
        from gcsfs.retry import HttpError
        from google.auth.exceptions import GoogleAuthError

        refused = isinstance(error, HttpError) and str(error.code) == "401"
        return refused or isinstance(error, GoogleAuthError)

    def is_forbidden(self, error: BaseException) -> bool:
        return super().is_forbidden(error) or str(error).startswith("Forbidden:")

    def is_unreachable(self, error: BaseException) -> bool:
        from aiohttp import ClientConnectionError

        return isinstance(error, (ClientConnectionError, TimeoutError))

    def lacks_bucket(self, error: BaseException) -> bool:
        return str(error).rstrip("/").endswith("/o")  # requested: b/BUCKET/o, without a name


STORES: Mapping[str, Store] = MappingProxyType({store.scheme: store for store in (S3(), GCS())})
"""The stores by scheme."""


def _code(error: BaseException) -> str | None:
    """The code of a boto error, or of the one that it was made of."""
    for candidate in (error, error.__cause__):
        response = getattr(candidate, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code"))
    return None


@contextlib.contextmanager
def store_errors(store: Store, address: str, bucket: str) -> Iterator[None]:
    """Turns what a store's library raises into UserErrors of one line.

    Args:
      store: the store.
      address: of the object or folder in use, for messages.
      bucket: its bucket.
    """
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        reason = f"is in a bucket, and {error.name or 'a library for it'} is not installed"
        raise UserError(address, reason, f"pip install 'llmjax[{store.extra}]'") from error
    except FileExistsError as error:
        raise UserError(address, "already exists", "choose another name, or remove it") from error
    except FileNotFoundError as error:
        if store.lacks_bucket(error):
            where = f"{store.scheme}://{bucket}"
            raise UserError(where, "no such bucket", "create it, or check the name") from error
        raise UserError(address, "does not exist", "check the path") from error
    except store.failures() as error:
        raise _failure(store, address, error) from error


def _failure(store: Store, address: str, error: Exception) -> UserError:
    """The UserError for an error of the library."""
    if store.is_unauthenticated(error):
        return UserError(
            address, "needs credentials, and there are no valid ones", store.credentials
        )
    if store.is_forbidden(error):
        fix = "give the account the right to list, read and write there, or check the credentials"
        return UserError(address, "permission denied", fix)
    if store.is_unreachable(error):
        text = f"the store cannot be reached: {_line(error)}"
        return UserError(address, text, "check the network, and the endpoint if one is set")
    return UserError(address, f"the store refused the request: {_line(error)}", "try again")


def _line(error: Exception) -> str:
    """The first line of an error's message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
