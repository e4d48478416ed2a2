"""The page at /: files of this package, served as they are."""

import hashlib
import mimetypes
from collections.abc import Callable, Coroutine
from importlib import resources
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Nothing but the page's own files runs or is loaded."""
FOLDER = "assets"


def page_files() -> dict[str, bytes]:
    """The page's files by name."""
    folder = resources.files("llmjax.serving") / FOLDER
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def page_routes() -> list[Route]:
    """Routes of the page: index.html at /, the other files at /assets/NAME. They need no key; what
    the page asks of the API does."""
    files = page_files()
    routes = [
        Route(f"/{FOLDER}/{name}", _endpoint(name, content), methods=["GET"])
        for name, content in files.items()
        if name != "index.html"
    ]
    return [Route("/", _endpoint("index.html", files["index.html"]), methods=["GET"]), *routes]


def _endpoint(name: str, content: bytes) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {
        "cache-control": "no-cache",
        "content-security-policy": POLICY,
        "etag": tag,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    return answer
