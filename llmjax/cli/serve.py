"""`llmjax serve`."""

import sys
from importlib.util import find_spec

from llmjax.cli.command import Call, Command
from llmjax.errors import UserError
from llmjax.serving.options import ServeOptions, serve_problems


def run(call: Call[ServeOptions]) -> None:
    """Serves until SIGTERM or Ctrl-C."""
    for library in ("starlette", "uvicorn", "prometheus_client"):
        if find_spec(library) is None:
            raise UserError("serve", f"needs {library}", "pip install 'llmjax[serve]'")
    from llmjax.serving.serve import serve

    serve(call.words, call.options, lambda line: print(line, file=sys.stderr, flush=True))


SERVE = Command(
    about="An HTTP server with OpenAI's API: /v1/chat/completions, /v1/completions, "
    "/v1/embeddings, /v1/models and /v1/search, /health and /metrics, and a page at / to chat, "
    "write and search. A run is named by its folder.",
    positionals=("RUN...",),
    usage="[--port N] [--option value ...]",
    options=ServeOptions,
    single=("index",),
    run=run,
    check=serve_problems,
)
