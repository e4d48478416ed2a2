"""Streamed completions: text in, text out."""

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from jax.sharding import Mesh

from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.decoding.beams import beam_search
from llmjax.decoding.config import DecodingConfig, decoding_problems
from llmjax.decoding.rows import Request
from llmjax.decoding.steps import generate_tokens
from llmjax.decoding.text import TextWriter
from llmjax.errors import UserError
from llmjax.interruption import between_batches
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.model.params import Params

Finish = Literal["eos", "stop", "length", "context"]


@dataclass(frozen=True)
class Completion:
    """A completion of a prompt.

    Attributes:
      prompt: the prompt, decoded if it was tokens.
      text: the generated text, up to the stop string if any.
      tokens: the generated tokens, the stop token included.
      nats: of each token, under the model's distribution, before sampling filters.
      finish: why it ended: end-of-text token, stop string, max_new_tokens, or a full context.
    """

    prompt: str
    text: str
    tokens: tuple[int, ...] = field(repr=False)
    nats: tuple[float, ...] = field(repr=False)
    finish: Finish

    def __str__(self) -> str:
        return self.prompt + self.text


class Piece(NamedTuple):
    """A piece of a completion's text, as it is generated.

    Attributes:
      row: index of the completion: prompt index x samples + sample index.
      text: continues the row's earlier pieces.
      completion: the full completion, with the row's last piece.
    """

    row: int
    text: str
    completion: Completion | None = None


def stream_completions(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    config: DecodingConfig,
    mesh: Mesh | None = None,
    stop_ids: Sequence[int] = (),
) -> Iterator[Piece]:
    """Continue each prompt (an empty one from BOS); the rows of a batch stream piece by piece.

    Text prompts get the tokenizer's prefix, and for an encoder its suffix; prompts of tokens are
    used as they are. `stop_ids` end a text in addition to those of the tokenizer. A completion
    depends on the seed, its prompt and its sample index, not on the other prompts.

    Raises:
      UserError: before generation: a prompt exceeds the context, the config is out of range, or the
        model has no decoder.
    """
    _check(model, config)
    ends = tuple(dict.fromkeys((*tokenizer.stop_ids, *stop_ids)))
    jobs = make_jobs(model.config, tokenizer, prompts, config)
    return _Session(model, params, tokenizer, config, mesh, ends).stream(jobs)


def check_prompts(
    model: Model, tokenizer: Tokenizer, prompts: Sequence[str], config: DecodingConfig
) -> None:
    """Check that `stream_completions` can continue these prompts, without parameters.

    Raises:
      UserError: as `stream_completions`.
    """
    _check(model, config)
    make_jobs(model.config, tokenizer, prompts, config)


def _check(model: Model, config: DecodingConfig) -> None:
    if problems := [f"decoding.{problem}" for problem in decoding_problems(config)]:
        raise UserError(problems[0], "; ".join(problems[1:]) or "cannot be used")
    if not model.config.num_decoder_layers:
        raise UserError("this model", "has no decoder", "generation needs a decoder")


class Job(NamedTuple):
    """A completion to generate, or with beams the completions of one prompt."""

    row: int
    prompt: str
    request: Request
    fresh: bool


def make_jobs(
    shape: ModelConfig,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    config: DecodingConfig,
) -> list[Job]:
    """Return the completions to generate, in order: a prompt's samples consecutively.

    Raises:
      UserError: a prompt exceeds the context.
    """
    samples = 1 if config.beams > 1 else config.samples
    jobs: list[Job] = []
    numbers: Counter[int] = Counter()
    encoded = iter(tokenizer.encode_batch([p for p in prompts if isinstance(p, str)]))
    for number, prompt in enumerate(prompts):
        ids = next(encoded) if isinstance(prompt, str) else list(prompt)
        text = prompt if isinstance(prompt, str) else tokenizer.decode(ids)
        tokens = _with_special_tokens(shape, tokenizer, ids, as_is=not isinstance(prompt, str))
        if len(tokens) > shape.max_length:
            raise UserError(
                f"prompt {number + 1} of {len(tokens)} tokens",
                f"is longer than the model's context of {shape.max_length}",
                "shorten it",
            )
        encodes = shape.is_encoder_decoder
        space = shape.max_length if encodes else shape.max_length - len(tokens) + 1
        limit = min(config.max_new_tokens, space)
        digest = zlib.crc32(np.asarray(tokens, "<i4").tobytes())
        for sample in range(samples):
            # A repeated prompt gets further samples.
            request = Request(tokens, limit, (digest, numbers[digest]))
            numbers[digest] += 1
            row = number * config.samples + sample
            jobs.append(Job(row, text, request, encodes or not ids))
    return jobs


def _with_special_tokens(
    shape: ModelConfig, tokenizer: Tokenizer, ids: list[int], as_is: bool
) -> list[int]:
    if as_is and ids:
        return ids
    if shape.is_encoder_decoder:
        return tokenizer.wrap(ids)[0]
    return [*tokenizer.prefix, *ids] or [tokenizer.bos_id]


class _Session(NamedTuple):
    """The arguments shared by all completions."""

    model: Model
    params: Params
    tokenizer: Tokenizer
    config: DecodingConfig
    mesh: Mesh | None
    ends: tuple[int, ...]

    def stream(self, jobs: list[Job]) -> Iterator[Piece]:
        """Generate in batches, sorted by prompt length to reduce padding."""
        jobs = sorted(jobs, key=lambda job: len(job.request.prompt))
        batch_size = max(1, self.config.batch_size // self.config.beams)
        for first in range(0, len(jobs), batch_size):
            between_batches()
            group = jobs[first : first + batch_size]
            yield from self._search(group) if self.config.beams > 1 else self._sample(group)

    def _sample(self, jobs: list[Job]) -> Iterator[Piece]:
        texts = [CompletionWriter(job, self.tokenizer, self.config, self.ends) for job in jobs]
        for new_tokens in generate_tokens(
            self.model,
            self.params,
            [job.request for job in jobs],
            self.config,
            tokenizer=self.tokenizer,
            mesh=self.mesh,
            stop_ids=self.ends,
        ):
            between_batches()
            for text, tokens, nats in zip(texts, *new_tokens, strict=True):
                piece = None if text.done else text.push(tokens, nats)
                if piece is not None:
                    yield piece
            if all(text.done for text in texts):
                return

    def _search(self, jobs: list[Job]) -> Iterator[Piece]:
        results = beam_search(
            self.model,
            self.params,
            [job.request for job in jobs],
            self.config,
            tokenizer=self.tokenizer,
            mesh=self.mesh,
            stop_ids=self.ends,
        )
        for job, hypotheses in zip(jobs, results, strict=True):
            for sample, best in enumerate(hypotheses[: self.config.samples]):
                sample_job = job._replace(row=job.row + sample)
                text = CompletionWriter(sample_job, self.tokenizer, self.config, self.ends)
                piece = text.push(best.tokens, best.nats)
                assert piece is not None
                yield piece


class CompletionWriter:
    """Builds one completion from its tokens.

    Attributes:
      done: whether it has ended.
    """

    def __init__(
        self, job: Job, tokenizer: Tokenizer, config: DecodingConfig, ends: tuple[int, ...]
    ):
        self.done = False
        self._job, self._ends, self._config = job, ends, config
        self._text = TextWriter(tokenizer, config.stop, job.fresh, job.request.prompt)
        self._tokens: list[int] = []
        self._nats: list[float] = []

    def push(self, tokens: Sequence[int], nats: Sequence[float]) -> Piece | None:
        """Take tokens until the text ends; return the new text, or None if there is none yet."""
        text = ""
        for token, cost in zip(tokens, nats, strict=True):
            self._tokens.append(int(token))
            self._nats.append(float(cost))
            if token not in self._ends:
                text += self._text.push(int(token))
            finish = self._finish()
            if finish:
                self.done = True
                text += self._text.flush()
                return Piece(self._job.row, text, self._completion(finish))
        return Piece(self._job.row, text) if text else None

    def _finish(self) -> Finish | None:
        if self._tokens[-1] in self._ends:
            return "eos"
        if self._text.stopped:
            return "stop"
        if len(self._tokens) < self._job.request.limit:
            return None
        return "length" if len(self._tokens) == self._config.max_new_tokens else "context"

    def _completion(self, finish: Finish) -> Completion:
        return Completion(
            prompt=self._job.prompt,
            text=self._text.text,
            tokens=tuple(self._tokens),
            nats=tuple(self._nats),
            finish=finish,
        )
