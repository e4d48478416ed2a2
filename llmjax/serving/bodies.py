"""The bodies of requests, and what the engine is asked to do for them."""

import secrets
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmjax.decoding.config import DecodingConfig
from llmjax.engine.config import RequestOptions
from llmjax.errors import UserError
from llmjax.serving.structured import grammar_of
from llmjax.serving.tools import with_decoded_calls

NOT_SERVED = ("logit_bias", "functions", "suffix", "best_of", "audio")
"""Fields that would change an answer and have no effect here: refused unless empty."""


class StreamOptions(BaseModel):
    include_usage: bool = False


class Generation(BaseModel):
    """The fields that completions and chat share."""

    model_config = ConfigDict(extra="allow")

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    n: int = Field(1, ge=1, le=128)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: dict[str, Any] | None = None

    def options(self, most: int, stop: tuple[str, ...], ends: tuple[int, ...]) -> RequestOptions:
        """What to ask of the engine; `most` bounds the new tokens.

        Raises:
          UserError: a field is not served.
        """
        for name in NOT_SERVED:
            if (self.model_extra or {}).get(name):
                raise UserError(name, "is not served", "leave it out")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        decoding = DecodingConfig(
            max_new_tokens=min(self.limit() or most, most),
            temperature=self.temperature,
            top_k=self.top_k if self.top_k and self.top_k > 0 else None,
            top_p=self.top_p if self.top_p < 1 else None,
            min_p=self.min_p or None,
            repetition_penalty=self.repetition_penalty,
            samples=self.n,
            stop=(*stops, *stop),
            seed=secrets.randbits(32) if self.seed is None else self.seed % 2**32,
        )
        return RequestOptions(
            decoding,
            self.presence_penalty,
            self.frequency_penalty,
            self.top(),
            ends,
            grammar_of(self.response_format, self.model_extra or {}),
        )

    def limit(self) -> int | None:
        """New tokens that it asks for."""
        return self.max_tokens

    def top(self) -> int:
        """Alternatives that it asks for with each token."""
        return 0


class CompletionBody(Generation):
    """Of /v1/completions."""

    prompt: str | list[int] | list[str]
    max_tokens: int | None = Field(16, ge=0)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=20)

    def top(self) -> int:
        return self.logprobs or 0

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt is to be scored, and nothing generated.

        Raises:
          UserError: one is asked for without the other.
        """
        if self.echo == (self.max_tokens == 0):
            return self.echo
        raise UserError("echo", "is served with max_tokens 0, to score the prompt, and only then")


class ChatBody(Generation):
    """Of /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none", "required"] | dict[str, Any] | None = None

    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def top(self) -> int:
        return (self.top_logprobs or 0) if self.logprobs else 0

    def plain_messages(self) -> list[dict[str, Any]]:
        """The messages, with the text parts of a content joined.

        Raises:
          UserError: a message has no role, or a part is not text.
        """
        return [with_decoded_calls(_plain(message)) for message in self.messages]


class EmbeddingBody(BaseModel):
    """Of /v1/embeddings."""

    model: str
    input: str | list[str] = Field(min_length=1)
    encoding_format: Literal["float", "base64"] = "float"


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(message.get("role"), str):
        raise UserError("messages", "has a message without a role")
    if not isinstance(content, list):
        if content is not None and not isinstance(content, str):
            raise UserError("messages", "has a content that is not text")
        return message
    parts = [part.get("text") if isinstance(part, dict) else None for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) < len(parts):
        raise UserError("messages", "has a part that is not text", "this model reads text alone")
    return message | {"content": "".join(texts)}
