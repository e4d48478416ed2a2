"""OpenAI's answers: objects, chunks, usage and errors."""

import time
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.decoding.completions import Finish
from llmjax.engine.requests import Output, TokenInfo
from llmjax.serving.surprisal import GivenToken
from llmjax.serving.tools import ToolFormat, ToolStream, call_objects, parse_calls

REASONS: dict[Finish, str] = {
    "eos": "stop",
    "stop": "stop",
    "length": "length",
    "context": "length",
}


class Answer(NamedTuple):
    """What all objects of an answer share.

    Attributes:
      model: the served name.
      tokenizer: of the model.
      is_chat: whether it answers messages rather than continuing a prompt.
      top: alternatives reported with each token; None without log-probabilities.
      id: of the answer.
      created: seconds since the epoch.
      tools: how the model writes calls of tools; None: the request has none.
    """

    model: str
    tokenizer: Tokenizer
    is_chat: bool
    top: int | None
    id: str
    created: int
    tools: ToolFormat | None = None

    def body(self, choices: list[dict[str, Any]], *, is_chunk: bool = False) -> dict[str, Any]:
        """An object with these choices."""
        kind = "text_completion"
        if self.is_chat:
            kind = "chat.completion.chunk" if is_chunk else "chat.completion"
        shared = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**shared, "choices": choices}

    def chunk(
        self, index: int, output: Output, *, is_first: bool, tools: ToolStream | None = None
    ) -> dict[str, Any]:
        """A choice of a streamed chunk; `tools` of its own where the answer may call some."""
        finish = None if output.completion is None else REASONS[output.completion.finish]
        choice: dict[str, Any] = {"index": index, "finish_reason": finish}
        choice["logprobs"] = self.logprobs(output.tokens)
        if not self.is_chat:
            return choice | {"text": output.text}
        delta: dict[str, Any] = {"role": "assistant"} if is_first else {}
        if tools is None:
            return choice | {"delta": delta | {"content": output.text}}
        delta["content"] = tools.push(output.text)
        if output.completion is not None:
            rest, calls = tools.finish()
            delta["content"] += rest
            if calls:
                delta["tool_calls"] = call_objects(calls, indexed=True)
                choice["finish_reason"] = "tool_calls"
        return choice | {"delta": delta}

    def choice(self, index: int, outputs: Sequence[Output]) -> dict[str, Any]:
        """A choice of a complete answer."""
        completion = outputs[-1].completion
        assert completion is not None
        tokens = [info for output in outputs for info in output.tokens]
        choice: dict[str, Any] = {"index": index, "finish_reason": REASONS[completion.finish]}
        choice["logprobs"] = self.logprobs(tokens)
        if not self.is_chat:
            return choice | {"text": completion.text}
        message: dict[str, Any] = {"role": "assistant", "content": completion.text}
        if self.tools is not None:
            said, calls = parse_calls(completion.text, self.tools)
            if calls:
                message |= {"content": said or None, "tool_calls": call_objects(calls)}
                choice["finish_reason"] = "tool_calls"
        return choice | {"message": message}

    def logprobs(self, tokens: Sequence[TokenInfo]) -> dict[str, Any] | None:
        """Log-probabilities of tokens, in the form of chat or of completions."""
        if self.top is None:
            return None
        if self.is_chat:
            content = [
                self._token(info.token, -info.nats)
                | {"top_logprobs": [self._token(*pair) for pair in info.top]}
                for info in tokens
            ]
            return {"content": content, "refusal": None}
        return {
            "tokens": [self._text(info.token) for info in tokens],
            "token_logprobs": [-info.nats for info in tokens],
            "top_logprobs": [{self._text(id): value for id, value in info.top} for info in tokens],
        }

    def given(
        self, tokens: Sequence[GivenToken], offsets: Sequence[int], prompt: str | None
    ) -> dict[str, Any]:
        """A choice that repeats a prompt with its tokens' log-probabilities."""
        texts = [self._text(each.token) for each in tokens]
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "logprobs": None}
        if self.top is not None:
            choice["logprobs"] = {
                "tokens": texts,
                "token_logprobs": [each.logprob for each in tokens],
                "top_logprobs": [
                    {self._text(id): value for id, value in each.top} if each.top else None
                    for each in tokens
                ],
                "text_offset": list(offsets),
            }
        return choice | {"text": "".join(texts) if prompt is None else prompt}

    def _text(self, token: int) -> str:
        return self.tokenizer.decode([token])

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._text(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def new_answer(
    model: str,
    tokenizer: Tokenizer,
    *,
    is_chat: bool,
    top: int | None,
    tools: ToolFormat | None = None,
) -> Answer:
    """An answer with an id of its own."""
    prefix = "chatcmpl" if is_chat else "cmpl"
    name = f"{prefix}-{uuid.uuid4().hex}"
    return Answer(model, tokenizer, is_chat, top, name, int(time.time()), tools)


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Tokens of the prompt and of all completions."""
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


def error_body(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """An error."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
