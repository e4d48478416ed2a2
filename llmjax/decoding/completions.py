"""Prompts to completions: text in, text out, streamed."""

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
from llmjax.decoding.rows import Row
from llmjax.decoding.steps import generate_tokens
from llmjax.decoding.text import TextWriter
from llmjax.errors import UserError
from llmjax.interruption import between_batches
from llmjax.model.model import Model
from llmjax.model.params import Params

Finish = Literal["eos", "stop", "length", "context"]


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt.

    Attributes:
      prompt: as given; the text of one given as tokens.
      text: what was written, up to the stop string if one came.
      tokens: what was written, the token that ended it included.
      nats: of each token, under the model's own distribution, whatever the sampling.
      finish: why it ends: the end-of-text token, a stop string, max_new_tokens, a full context.
    """

    prompt: str
    text: str
    tokens: tuple[int, ...] = field(repr=False)
    nats: tuple[float, ...] = field(repr=False)
    finish: Finish

    def __str__(self) -> str:
        return self.prompt + self.text


class Piece(NamedTuple):
    """A part of one completion's text, as it comes.

    Attributes:
      row: which completion: prompt number x samples + sample number.
      text: follows on the row's earlier pieces.
      completion: all of it, with the row's last piece.
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
    """Continues each prompt (an empty one from BOS on); rows of a batch come piece by piece.

    A prompt of tokens is read as it is. `stop_ids` end a text beside those of the tokenizer.

    A completion depends on the seed, its prompt and its number among that prompt's samples, not on
    the prompts beside it. Before a prompt, and where there is an encoder also after it, stands what
    the tokenizer says that the model expects.

    Raises:
      UserError: before anything is written: a prompt is longer than the context, the config is out
        of range, or the model has no decoder.
    """
    _check(model, config)
    ends = tuple(dict.fromkeys((*tokenizer.stop_ids, *stop_ids)))
    session = _Session(model, params, tokenizer, config, mesh, ends)
    return session.stream(session.jobs(prompts))


def check_prompts(
    model: Model, tokenizer: Tokenizer, prompts: Sequence[str], config: DecodingConfig
) -> None:
    """Checks that `stream_completions` could continue these prompts, before there are parameters.

    Raises:
      UserError: as `stream_completions`.
    """
    _check(model, config)
    _Session(model, {}, tokenizer, config, None, ()).jobs(prompts)


def _check(model: Model, config: DecodingConfig) -> None:
    if problems := [f"decoding.{problem}" for problem in decoding_problems(config)]:
        raise UserError(problems[0], "; ".join(problems[1:]) or "cannot be used")
    if not model.config.num_decoder_layers:
        raise UserError("this model", "has no decoder", "only a model that has one writes text")


class _Job(NamedTuple):
    """A completion to write, or with beams, those of one prompt."""

    place: int
    prompt: str
    row: Row
    fresh: bool


class _Session(NamedTuple):
    """What all completions share."""

    model: Model
    params: Params
    tokenizer: Tokenizer
    config: DecodingConfig
    mesh: Mesh | None
    ends: tuple[int, ...]

    def jobs(self, prompts: Sequence[str | Sequence[int]]) -> list[_Job]:
        """The rows to write, in order."""
        samples = 1 if self.config.beams > 1 else self.config.samples
        found: list[_Job] = []
        numbers: Counter[int] = Counter()
        encoded = iter(self.tokenizer.encode_batch([p for p in prompts if isinstance(p, str)]))
        for number, prompt in enumerate(prompts):
            ids = next(encoded) if isinstance(prompt, str) else list(prompt)
            text = prompt if isinstance(prompt, str) else self.tokenizer.decode(ids)
            tokens, room = self._head(number, ids, whole=not isinstance(prompt, str))
            limit = min(self.config.max_new_tokens, room)
            digest = zlib.crc32(np.asarray(tokens, "<i4").tobytes())
            for sample in range(samples):
                # A prompt given twice gets further samples.
                row = Row(tokens, limit, (digest, numbers[digest]))
                numbers[digest] += 1
                place = number * self.config.samples + sample
                found.append(_Job(place, text, row, self._encodes or not ids))
        return found

    def stream(self, jobs: list[_Job]) -> Iterator[Piece]:
        """Writes them in batches; prompts of like length go together, for less padding."""
        jobs = sorted(jobs, key=lambda job: len(job.row.prompt))
        at_once = max(1, self.config.batch_size // self.config.beams)
        for first in range(0, len(jobs), at_once):
            between_batches()
            group = jobs[first : first + at_once]
            yield from self._search(group) if self.config.beams > 1 else self._sample(group)

    @property
    def _encodes(self) -> bool:
        return self.model.config.is_encoder_decoder

    def _head(self, number: int, ids: list[int], whole: bool) -> tuple[list[int], int]:
        """What the model reads of a prompt, and how many tokens it can write after it."""
        context = self.model.config.max_length
        if whole and ids:
            tokens = ids
        elif self._encodes:
            tokens = self.tokenizer.wrap(ids)[0]
        else:
            tokens = [*self.tokenizer.prefix, *ids] or [self.tokenizer.bos_id]
        if len(tokens) > context:
            raise UserError(
                f"prompt {number + 1} of {len(tokens)} tokens",
                f"is longer than the model's context of {context}",
                "shorten it",
            )
        return tokens, context if self._encodes else context - len(tokens) + 1

    def _sample(self, jobs: list[_Job]) -> Iterator[Piece]:
        texts = [_Writing(job, self.tokenizer, self.config, self.ends) for job in jobs]
        for written in generate_tokens(
            self.model,
            self.params,
            [job.row for job in jobs],
            self.config,
            tokenizer=self.tokenizer,
            mesh=self.mesh,
            stop_ids=self.ends,
        ):
            between_batches()
            for text, tokens, nats in zip(texts, *written, strict=True):
                piece = None if text.done else text.push(tokens, nats)
                if piece is not None:
                    yield piece
            if all(text.done for text in texts):
                return

    def _search(self, jobs: list[_Job]) -> Iterator[Piece]:
        found = beam_search(
            self.model,
            self.params,
            [job.row for job in jobs],
            self.config,
            tokenizer=self.tokenizer,
            mesh=self.mesh,
            stop_ids=self.ends,
        )
        for job, hypotheses in zip(jobs, found, strict=True):
            for sample, best in enumerate(hypotheses[: self.config.samples]):
                one = job._replace(place=job.place + sample)
                text = _Writing(one, self.tokenizer, self.config, self.ends)
                piece = text.push(best.tokens, best.nats)
                assert piece is not None
                yield piece


class _Writing:
    """One completion in the making."""

    def __init__(
        self, job: _Job, tokenizer: Tokenizer, config: DecodingConfig, ends: tuple[int, ...]
    ):
        self.done = False
        self._job, self._ends, self._config = job, ends, config
        self._writer = TextWriter(tokenizer, config.stop, job.fresh, job.row.prompt)
        self._tokens: list[int] = []
        self._nats: list[float] = []

    def push(self, tokens: Sequence[int], nats: Sequence[float]) -> Piece | None:
        """Takes tokens until the text ends; returns the new text, or None if there is none yet."""
        text = ""
        for token, cost in zip(tokens, nats, strict=True):
            self._tokens.append(int(token))
            self._nats.append(float(cost))
            if token not in self._ends:
                text += self._writer.push(int(token))
            finish = self._finish()
            if finish:
                self.done = True
                text += self._writer.flush()
                return Piece(self._job.place, text, self._completion(finish))
        return Piece(self._job.place, text) if text else None

    def _finish(self) -> Finish | None:
        if self._tokens[-1] in self._ends:
            return "eos"
        if self._writer.stopped:
            return "stop"
        if len(self._tokens) < self._job.row.limit:
            return None
        return "length" if len(self._tokens) == self._config.max_new_tokens else "context"

    def _completion(self, finish: Finish) -> Completion:
        return Completion(
            prompt=self._job.prompt,
            text=self._writer.text,
            tokens=tuple(self._tokens),
            nats=tuple(self._nats),
            finish=finish,
        )
