"""Requests: waiting, being read, running; and what a step yields of them."""

from dataclasses import dataclass, field
from typing import NamedTuple

from llmjax.decoding.completions import Completion, CompletionWriter, Job
from llmjax.engine.config import RequestOptions
from llmjax.engine.grammars import Matcher
from llmjax.model.cache import Cache


class TokenInfo(NamedTuple):
    """A generated token.

    Attributes:
      token: its id.
      nats: under the model's distribution, before penalties and filters.
      top: the most likely tokens and their log-probabilities, as many as the request asked for.
    """

    token: int
    nats: float
    top: tuple[tuple[int, float], ...]


class Output(NamedTuple):
    """What a step adds to a request.

    Attributes:
      id: of the request, from `submit`.
      text: continues its earlier text; a possible start of a stop string is held back.
      tokens: that were generated, the stop token included.
      completion: the complete result, with the last output.
    """

    id: int
    text: str
    tokens: tuple[TokenInfo, ...]
    completion: Completion | None = None


@dataclass(eq=False)
class Waiting:
    """A request that has not begun.

    Attributes:
      id: its number.
      job: prompt and limits.
      options: as submitted.
      ends: all tokens that end it.
      is_long: see `Cache.is_long`.
      matcher: follows its text through a grammar; None: it has none.
    """

    id: int
    job: Job
    options: RequestOptions
    ends: tuple[int, ...]
    is_long: bool
    matcher: Matcher | None = None


@dataclass(eq=False)
class Reading:
    """A request whose prompt is being read.

    Attributes:
      request: the request.
      prompt: the decoder's tokens.
      done: how many are in the cache; the last one is left to the first step of decoding.
      cache: of P rows, see `programs.insert`.
    """

    request: Waiting
    prompt: tuple[int, ...]
    done: int
    cache: Cache


@dataclass(eq=False)
class Running:
    """A request that is decoded.

    Attributes:
      request: the request.
      row: of the batch.
      prompt: the decoder's tokens.
      writer: its text so far.
      tokens: that were generated.
    """

    request: Waiting
    row: int
    prompt: tuple[int, ...]
    writer: CompletionWriter
    tokens: list[int] = field(default_factory=list)

    @property
    def position(self) -> int:
        """Of its last token."""
        return len(self.prompt) + len(self.tokens) - 1

    @property
    def last(self) -> int:
        """Its last token."""
        return self.tokens[-1] if self.tokens else self.prompt[-1]

    @property
    def remaining(self) -> int:
        """Tokens that it may still generate."""
        return self.request.job.request.limit - len(self.tokens)
