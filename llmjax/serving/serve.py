"""The command `serve`: load runs and answer requests until told to stop."""

import signal
import sys
from collections.abc import Callable, Sequence

import uvicorn

from llmjax.errors import UserError
from llmjax.serving.app import make_app
from llmjax.serving.indexes import load_indexes
from llmjax.serving.models import load_models
from llmjax.serving.options import ServeOptions
from llmjax.storage.bounded import read_bytes

MAX_KEYS = 1 << 20
"""Bytes of a file of keys."""


def serve(runs: Sequence[str], options: ServeOptions, tell: Callable[[str], None]) -> None:
    """Serve runs until SIGTERM or SIGINT, which let the running requests end; `tell` is called with
    a line when the runs are loaded.

    Raises:
      UserError: a run cannot be loaded, or the keys cannot be read.
    """
    keys = [] if options.api_key_file is None else read_keys(options.api_key_file)
    indexes = load_indexes(options.index)
    models = load_models(runs, options)
    try:
        config = uvicorn.Config(
            make_app(models, options, keys, indexes),
            host=options.host,
            port=options.port,
            log_level="warning",
            timeout_graceful_shutdown=int(options.max_seconds) + 1,
            server_header=False,
        )
        names = ", ".join(model.name for model in models)
        tell(f"serving {names} at http://{options.host}:{options.port}; Ctrl-C ends")
        # The server repeats the signal that ended it, for the handler that was there before.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
        uvicorn.Server(config).run()
    finally:
        for model in models:
            model.close()
        for index in indexes:
            index.close()


def read_keys(file: str) -> list[str]:
    """Read API keys, one per line.

    Raises:
      UserError: the file cannot be read, or holds no key.
    """
    content = read_bytes(file, MAX_KEYS)
    try:
        keys = [line.strip() for line in content.decode("ascii").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UserError(file, "is not ASCII", "write one key per line") from None
    if not keys:
        raise UserError(file, "contains no key", "write one per line")
    return keys
