"""The web application: OpenAI's endpoints, /health and /metrics."""

import asyncio
import base64
import hmac
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from llmjax.engine.config import RequestOptions
from llmjax.engine.engine import Busy
from llmjax.engine.requests import Output
from llmjax.errors import UserError
from llmjax.serving.answers import Answer, error_body, new_answer, usage
from llmjax.serving.bodies import ChatBody, CompletionBody, EmbeddingBody, Generation
from llmjax.serving.indexes import SearchBody, ServedIndex, chosen
from llmjax.serving.metrics import Metrics
from llmjax.serving.models import ServedModel
from llmjax.serving.options import ServeOptions
from llmjax.serving.page import page_routes
from llmjax.serving.tools import ToolStream, forced_call, format_of
from llmjax.serving.worker import Stopped, Worker
from llmjax.storage.json_documents import JsonLimits, json_text, parse_json

Body = TypeVar("Body", bound=BaseModel)
Endpoint: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]
OPEN = ("/health",)
"""Paths that need no key."""


def make_app(
    models: Sequence[ServedModel],
    options: ServeOptions,
    keys: Sequence[str] = (),
    indexes: Sequence[ServedIndex] = (),
) -> Starlette:
    """The application of loaded models; `keys`: those that requests must carry one of, if any."""
    server = _Server(models, options, keys, indexes)
    endpoints: dict[str, tuple[Endpoint, str]] = {
        "/health": (server.health, "GET"),
        "/metrics": (server.show_metrics, "GET"),
        "/v1/models": (server.list_models, "GET"),
        "/v1/completions": (server.completions, "POST"),
        "/v1/chat/completions": (server.chat, "POST"),
        "/v1/embeddings": (server.embeddings, "POST"),
        "/v1/search": (server.search, "POST"),
        "/v1/indexes": (server.list_indexes, "GET"),
    }
    routes = [
        Route(path, server.guarded(path, endpoint), methods=[method])
        for path, (endpoint, method) in endpoints.items()
    ]
    routes += page_routes()
    return Starlette(routes=routes, exception_handlers={HTTPException: _http_error})


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods."""
    assert isinstance(error, HTTPException)
    body = error_body(error.detail, "invalid_request_error")
    return JSONResponse(body, error.status_code, dict(error.headers or {}))


class _Server:
    def __init__(
        self,
        models: Sequence[ServedModel],
        options: ServeOptions,
        keys: Sequence[str],
        indexes: Sequence[ServedIndex],
    ):
        self._models: Mapping[str, ServedModel] = {model.name: model for model in models}
        self._indexes = indexes
        self._options, self._keys = options, [key.encode() for key in keys]
        self._metrics = Metrics(models)

    def guarded(self, path: str, endpoint: Endpoint) -> Endpoint:
        """The endpoint behind the keys, with errors in the API's shape."""

        async def answer(request: Request) -> Response:
            response = await self._checked(path, endpoint, request)
            self._metrics.requests.labels(path, str(response.status_code)).inc()
            return response

        return answer

    async def _checked(self, path: str, endpoint: Endpoint, request: Request) -> Response:
        def failed(status: int, message: str, code: str | None = None) -> Response:
            kind = "invalid_request_error" if status < 500 else "server_error"
            return JSONResponse(error_body(message, kind, code), status)

        if path not in OPEN and not self._is_allowed(request):
            return failed(401, "a valid API key is missing", "invalid_api_key")
        try:
            return await endpoint(request)
        except HTTPException as error:
            return failed(error.status_code, error.detail)
        except UserError as error:
            return failed(400, str(error))
        except Busy as error:
            return failed(429, f"the server is busy: {error}", "rate_limit_exceeded")
        except TimeoutError:
            return failed(503, f"the request took over {self._options.max_seconds:g} s")
        except Stopped:
            return failed(503, "the engine has stopped")

    def _is_allowed(self, request: Request) -> bool:
        if not self._keys:
            return True
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        matches = [hmac.compare_digest(given, key) for key in self._keys]  # all, whichever matches
        return any(matches)

    async def health(self, request: Request) -> Response:
        workers = [model.worker for model in self._models.values() if model.worker is not None]
        alive = all(worker.is_alive for worker in workers)
        return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)

    async def show_metrics(self, request: Request) -> Response:
        return Response(
            generate_latest(self._metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST}
        )

    async def list_models(self, request: Request) -> Response:
        data = [{"id": name, "object": "model", "owned_by": "llmjax"} for name in self._models]
        return JSONResponse({"object": "list", "data": data})

    async def list_indexes(self, request: Request) -> Response:
        data = [{"id": index.name, "object": "index"} for index in self._indexes]
        return JSONResponse({"object": "list", "data": data})

    async def search(self, request: Request) -> Response:
        body = await self._read(request, SearchBody)
        index = chosen(self._indexes, body.index)
        return JSONResponse(await asyncio.to_thread(index.search, body.query, body.limit))

    async def embeddings(self, request: Request) -> Response:
        body = await self._read(request, EmbeddingBody)
        model = self._model(body.model)
        texts = [body.input] if isinstance(body.input, str) else body.input
        vectors, tokens = await asyncio.to_thread(model.embeddings, texts)
        rows: list[Any] = vectors.tolist()
        if body.encoding_format == "base64":  # what OpenAI's own client asks for
            rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
        data = [
            {"object": "embedding", "index": index, "embedding": row}
            for index, row in enumerate(rows)
        ]
        counts = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": model.name, "usage": counts})

    async def completions(self, request: Request) -> Response:
        body = await self._read(request, CompletionBody)
        model, prompt = self._model(body.model), body.prompt
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
            prompt = prompt[0]
        if isinstance(prompt, list) and any(isinstance(part, str) for part in prompt):
            raise UserError("prompt", "has several texts", "send a request for each")
        tokens = model.prompt(prompt)  # type: ignore[arg-type]
        top = body.logprobs
        if body.scores_prompt:
            return await self._score(model, prompt, top)
        answer = new_answer(model.name, model.lm.tokenizer, is_chat=False, top=top)
        options = body.options(self._options.max_new_tokens, (), ())
        # A text goes to the engine as it is: it begins or continues one by its tokenizer's rules.
        return await self._generate(request, model, body, answer, prompt, len(tokens), options)

    async def _score(self, model: ServedModel, prompt: Any, top: int | None) -> Response:
        """The log-probabilities of a prompt's own tokens."""
        model.running()  # which an encoder has not
        given, offsets, size = await asyncio.to_thread(model.scores, prompt, top or 0)
        answer = new_answer(model.name, model.lm.tokenizer, is_chat=False, top=top)
        choice = answer.given(given, offsets, prompt if isinstance(prompt, str) else None)
        return JSONResponse(answer.body([choice]) | {"usage": usage(size, 0)})

    async def chat(self, request: Request) -> Response:
        body = await self._read(request, ChatBody)
        model = self._model(body.model)
        chat_format, messages = model.chat_format(), body.plain_messages()
        tools = body.tools if body.tool_choice != "none" else None
        tokens = await asyncio.to_thread(model.conversation, messages, tools)
        top = body.top() if body.logprobs else None
        form = format_of(model.lm.tokenizer.chat_template or "") if tools else None
        answer = new_answer(model.name, model.lm.tokenizer, is_chat=True, top=top, tools=form)
        most = self._options.max_new_tokens
        options = body.options(most, chat_format.stop, chat_format.stop_ids)
        if form is not None and (call := forced_call(tools or [], body.tool_choice, form)):
            if options.grammar is not None:
                raise UserError("tool_choice", "holds the answer to a call", "leave out its form")
            options = replace(options, grammar=call)
        return await self._generate(request, model, body, answer, tokens, len(tokens), options)

    async def _generate(
        self,
        request: Request,
        model: ServedModel,
        body: Generation,
        answer: Answer,
        prompt: Any,
        size: int,
        options: RequestOptions,
    ) -> Response:
        outputs = self._outputs(model, model.running(), prompt, options)
        if not body.stream:
            return await self._complete(request, answer, outputs, size)
        first = await anext(outputs)  # mistakes are found before the answer begins
        include = body.stream_options is not None and body.stream_options.include_usage
        events = _events(answer, first, outputs, size, include)
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def _outputs(
        self, model: ServedModel, worker: Worker, prompt: Any, options: RequestOptions
    ) -> AsyncIterator[tuple[int, Output]]:
        """The engine's outputs, within the time that a request may take."""
        start, is_first = time.monotonic(), True
        stream = worker.stream(prompt, options, self._options.max_seconds)
        async with aclosing(stream):  # type: ignore[type-var]
            async for item in stream:
                if is_first:
                    seconds = time.monotonic() - start
                    self._metrics.first_token.labels(model.name).observe(seconds)
                is_first = False
                yield item

    async def _complete(
        self,
        request: Request,
        answer: Answer,
        outputs: AsyncIterator[tuple[int, Output]],
        size: int,
    ) -> Response:
        """A complete answer; a client that leaves frees its rows."""

        async def collect() -> dict[int, list[Output]]:
            texts: dict[int, list[Output]] = {}
            async with aclosing(outputs):  # type: ignore[type-var]
                async for index, output in outputs:
                    texts.setdefault(index, []).append(output)
            return texts

        async def leave() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass  # the body has been read, so nothing else is expected

        collecting, leaving = asyncio.create_task(collect()), asyncio.create_task(leave())
        try:
            await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not collecting.done():
                return Response(status_code=499)
            texts = await collecting
        finally:
            collecting.cancel()
            leaving.cancel()
        choices = [answer.choice(index, texts[index]) for index in sorted(texts)]
        count = sum(len(output.tokens) for parts in texts.values() for output in parts)
        return JSONResponse(answer.body(choices) | {"usage": usage(size, count)})

    def _model(self, name: str) -> ServedModel:
        if name not in self._models:
            raise HTTPException(404, f"model {name} is not served; see /v1/models")
        return self._models[name]

    async def _read(self, request: Request, kind: type[Body]) -> Body:
        """The body of a request, within limits.

        Raises:
          HTTPException, UserError: it is too large, or not what is expected.
        """
        most, content = self._options.max_body, bytearray()
        async for part in request.stream():
            content += part
            if len(content) > most:
                raise HTTPException(413, f"the body has more than {most} bytes")
        limits = JsonLimits(size=most, marks=1_000_000)
        value = parse_json(bytes(content), "the body", limits=limits, unique=True, fix="fix it")
        try:
            return kind.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the body"
            raise UserError(where, first["msg"]) from None


async def _events(
    answer: Answer,
    first: tuple[int, Output],
    outputs: AsyncIterator[tuple[int, Output]],
    size: int,
    include_usage: bool,
) -> AsyncIterator[str]:
    """Server-sent events: a chunk for each output, usage if asked for, and the end."""

    def event(value: Mapping[str, Any]) -> str:
        return f"data: {json_text(value)}\n\n"

    seen: dict[int, ToolStream | None] = {}
    count = 0

    def chunk(index: int, output: Output) -> str:
        is_first = index not in seen
        stream = seen.setdefault(index, None if answer.tools is None else ToolStream(answer.tools))
        choice = answer.chunk(index, output, is_first=is_first, tools=stream)
        return event(answer.body([choice], is_chunk=True))

    try:
        async with aclosing(outputs):  # type: ignore[type-var]
            yield chunk(*first)
            count += len(first[1].tokens)
            async for index, output in outputs:
                count += len(output.tokens)
                yield chunk(index, output)
    except (Stopped, TimeoutError) as error:
        reason = "took too long" if isinstance(error, TimeoutError) else "was stopped"
        yield event(error_body(f"the request {reason}", "server_error"))
        return
    if include_usage:
        yield event(answer.body([], is_chunk=True) | {"usage": usage(size, count)})
    yield "data: [DONE]\n\n"
