"""The engine: `submit` requests, and `step` until it is idle."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.decoding.completions import CompletionWriter, make_jobs
from llmjax.decoding.rows import encode_prompts, padded
from llmjax.engine import programs
from llmjax.engine.config import EngineConfig, RequestOptions, engine_problems, request_problems
from llmjax.engine.grammars import GrammarCompiler
from llmjax.engine.prefixes import PrefixCache
from llmjax.engine.requests import Output, Reading, Running, TokenInfo, Waiting
from llmjax.engine.rows import rows_of
from llmjax.engine.shapes import Limits, Shape, next_shape
from llmjax.errors import UserError
from llmjax.model.cache import Cache
from llmjax.model.layer_types import longest_short_text
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel.mesh import axis_size, place, use_mesh

KEPT = {
    "keys",
    "values",
    "cross_keys",
    "cross_values",
    "encoder_segments",
    "is_long",
    "heads",
}
"""What the cache of a layer may hold: all of it by position, or fixed for a row."""


class Busy(Exception):
    """As many requests wait as may."""


class Engine:
    """Decodes many requests at once; not for several threads.

    A step reads at most `prefill_chunk` tokens of waiting prompts and then decodes
    `steps_per_call` tokens of every running request.

    What a request yields depends on its prompt, options and seed alone. With `fixed_shape`, this is
    exact: all requests are computed by the same programs, in which rows are independent (but for
    experts with a capacity). Otherwise company decides the cache's shape, and another shape is
    another program, which may round differently; texts differ only where that decides between two
    tokens that are about equally likely. It is the text of `LanguageModel.generate` with the same
    seed, up to the same rounding.
    """

    def __init__(
        self,
        model: Model,
        params: Params,
        tokenizer: Tokenizer,
        config: EngineConfig | None = None,
        mesh: Mesh | None = None,
    ):
        """Raises:
        UserError: the model has no decoder or layers that keep a state the engine does not know, or
          the config is out of range.
        """
        config = config or EngineConfig()
        if problems := engine_problems(config):
            raise UserError(f"engine.{problems[0]}", "; ".join(problems[1:]) or "cannot be used")
        if not model.config.num_decoder_layers:
            raise UserError("this model", "has no decoder", "generation needs a decoder")
        _check_cache(model)
        self.model, self.params, self.tokenizer, self.config = model, params, tokenizer, config
        self.mesh = mesh
        self._copies = 1 if mesh is None else axis_size(mesh, "batch")
        self._limits = Limits(
            config.max_rows,
            self._copies,
            model.config.max_length,
            model.config.is_encoder_decoder,
            config.fixed_shape,
        )
        self.prefixes = PrefixCache(config.prefix_tokens, config.prefill_chunk)
        self._grammars = GrammarCompiler(tokenizer)
        self._waiting: deque[Waiting] = deque()
        self._reading: Reading | None = None
        self._running: list[Running] = []
        self._shape = Shape(0, 0)
        self._batch: programs.Batch | None = None
        self._submitted = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waiting or running."""
        return not (self._waiting or self._reading or self._running)

    @property
    def waiting(self) -> int:
        """Requests that have not begun to be decoded."""
        return len(self._waiting) + (self._reading is not None)

    @property
    def running(self) -> int:
        """Requests that are decoded."""
        return len(self._running)

    @property
    def shape(self) -> Shape:
        """Of the cache; zeros before the first request."""
        return self._shape

    def submit(
        self, prompt: str | Sequence[int], options: RequestOptions | None = None
    ) -> list[int]:
        """Queue a prompt; returns the ids of its requests, one for each of `samples`.

        Raises:
          UserError: the prompt exceeds the context or the cache, an option is out of range, or the
            grammar is not valid.
          Busy: too many requests wait.
        """
        options = options or RequestOptions()
        if problems := request_problems(options):
            raise UserError(problems[0], "; ".join(problems[1:]) or "cannot be used")
        jobs = make_jobs(self.model.config, self.tokenizer, [prompt], options.decoding)
        idle = self.config.max_rows - self.running - self.waiting
        if len(jobs) > max(idle, 0) + self.config.max_waiting - max(-idle, 0):
            raise Busy(f"{self.waiting} requests are waiting")
        ends = tuple(dict.fromkeys((*self.tokenizer.stop_ids, *options.stop_ids)))
        short, ids = longest_short_text(self.model.config), []
        for job in jobs:
            request = Waiting(self._submitted, job, options, ends, is_long=False)
            longest = self._positions(request)
            request.is_long = short is not None and longest > short
            shape = self._limits.shape(1, longest)
            if shape.rows * shape.slots > self._space:
                raise UserError(
                    f"a request of {longest} tokens",
                    f"exceeds the cache of {self._space}",
                    "shorten it, ask for fewer tokens or raise cache_tokens",
                )
            if options.grammar is not None:
                request.matcher = self._grammars.matcher(options.grammar)
            self._submitted += 1
            self._waiting.append(request)
            ids.append(request.id)
        return ids

    def cancel(self, id: int) -> None:
        """Drop a request, which yields no more; nothing happens if it has ended."""
        self._waiting = deque(request for request in self._waiting if request.id != id)
        if self._reading is not None and self._reading.request.id == id:
            self._reading = None
        self._running = [running for running in self._running if running.request.id != id]

    def step(self) -> list[Output]:
        """Advance everything; returns what is new, of each running request at most once."""
        with use_mesh(self.mesh):
            self._read()
            return self._decode() if self._running else []

    def run(self) -> Iterator[Output]:
        """Step until idle."""
        while not self.is_idle:
            yield from self.step()

    @property
    def _space(self) -> int:
        limit = self.config.cache_tokens
        return self._limits.context * self.config.max_rows if limit is None else limit

    def _positions(self, request: Waiting) -> int:
        """Positions that a request may fill at most."""
        job = request.job.request
        size = 1 if self.model.config.is_encoder_decoder else len(job.prompt)
        return size + job.limit - 1

    # Prompts

    def _read(self) -> None:
        """Read prompts, `prefill_chunk` tokens of them."""
        budget = self.config.prefill_chunk
        while budget > 0:
            if self._reading is None:
                if not self._waiting or not self._fits(self._waiting[0]):
                    return
                self._reading = self._start(self._waiting.popleft())
            reading = self._reading
            rest = reading.prompt[reading.done : -1]
            if rest:
                chunk = rest[: self.config.prefill_chunk]
                budget -= len(chunk)
                self._read_chunk(reading, chunk)
            if reading.done == len(reading.prompt) - 1:
                self._reading = None
                self._begin(reading)

    def _fits(self, request: Waiting) -> bool:
        """Whether the cache has space for one more request, however long all become."""
        if self.running == self.config.max_rows:
            return False
        requests = [*(running.request for running in self._running), request]
        shape = self._limits.shape(len(requests), max(map(self._positions, requests)))
        return self.running == 0 or shape.rows * shape.slots <= self._space

    def _start(self, request: Waiting) -> Reading:
        source = tuple(request.job.request.prompt)
        if self.model.config.is_encoder_decoder:
            return Reading(request, (self.tokenizer.bos_id,), 0, self._encoded(source))
        prefix = self.prefixes.find(source[:-1], request.is_long)
        slots = self._limits.slots(len(source))
        if prefix is None:
            lengths = np.full(self._copies, self._positions(request), np.int32)
            lengths_on_device = place(lengths, self.mesh, "batch")
            cache = programs.empty_cache(self.model, lengths_on_device, slots=slots)
            return Reading(request, source, 0, cache)
        # A copy, as reading on would overwrite what is kept.
        rows = place(np.arange(self._copies, dtype=np.int32), self.mesh, None)
        return Reading(
            request, source, prefix.length, programs.resized(prefix.cache, rows, slots=slots)
        )

    def _encoded(self, source: tuple[int, ...]) -> Cache:
        """The cache of an encoded prompt."""
        found = self.prefixes.find(source, False, whole=True)
        if found is not None:
            return found.cache
        limit = self.model.config.max_length
        texts = [source] * self._copies
        arrays = padded(texts, limit), padded([[1] * len(source)] * self._copies, limit)
        inputs = [place(array, self.mesh, "batch", None) for array in arrays]
        slots = self._limits.slots(1)
        cache = encode_prompts(self.model, self.params, *inputs, slots=slots)
        self.prefixes.add(source, False, cache)
        return cache

    def _read_chunk(self, reading: Reading, chunk: tuple[int, ...]) -> None:
        tokens = padded([chunk] * self._copies, self.config.prefill_chunk)
        reading.cache = programs.read_chunk(
            self.model,
            self.params,
            place(tokens, self.mesh, "batch", None),
            jnp.int32(reading.done),
            reading.cache,
        )
        reading.done += len(chunk)
        if reading.done == len(reading.prompt) - 1:
            self.prefixes.add(reading.prompt[:-1], reading.request.is_long, reading.cache)

    # The batch

    def _begin(self, reading: Reading) -> None:
        """Give a prompt that has been read a row of the batch."""
        job, options = reading.request.job, reading.request.options
        writer = CompletionWriter(job, self.tokenizer, options.decoding, reading.request.ends)
        cache, prompt = reading.cache, reading.prompt
        sources = 0 if cache.encoder_segments is None else cache.encoder_segments.shape[1]
        if self._batch is not None:
            sources = max(sources, self._shape.source)
        running = Running(reading.request, 0, prompt, writer)
        self._reshape([*self._running, running], sources, cache)
        taken = {other.row for other in self._running}
        running.row = next(row for row in range(self._shape.rows) if row not in taken)
        self._running.append(running)
        slots, source = self._shape.slots, self._shape.source
        rows = place(np.arange(self._copies, dtype=np.int32), self.mesh, None)
        fitted = programs.resized(cache, rows, slots=slots, source=source)
        history = np.zeros((self._copies, slots), np.int32)
        history[:, : len(prompt)] = prompt
        placed = place(history, self.mesh, "batch", None)
        assert self._batch is not None
        self._batch = programs.insert(self._batch, jnp.int32(running.row), fitted, placed)

    def _reshape(self, requests: Sequence[Running], sources: int, like: Cache) -> None:
        """Change the batch's shape to what these requests need in the next call, if it must."""
        steps = self.config.steps_per_call
        longest = max(
            min(running.position + steps, self._positions(running.request)) for running in requests
        )
        needed = self._limits.shape(len(requests), longest, sources)
        shape = needed if self._batch is None else next_shape(self._shape, needed)
        if shape == self._shape:
            return
        rows = np.zeros(shape.rows, np.int32)
        rows[: self.running] = [running.row for running in self._running]
        for row, running in enumerate(self._running):
            running.row = row
        taken = place(rows, self.mesh, None)
        cache, history = like, np.zeros((self._copies, shape.slots), np.int32)
        if self._batch is None:
            old_history = place(history, self.mesh, "batch", None)
        else:
            cache, old_history = self._batch
        self._batch = programs.Batch(
            programs.resized(cache, taken, slots=shape.slots, source=shape.source),
            programs.resized_history(old_history, taken, slots=shape.slots),
        )
        self._shape = shape

    def _decode(self) -> list[Output]:
        constrained = any(running.request.matcher for running in self._running)
        steps = 1 if constrained else self.config.steps_per_call
        assert self._batch is not None
        self._reshape(self._running, self._shape.source, self._batch.cache)
        rows = rows_of(self._running, self._shape.rows, self.model.config.vocab_size, self.mesh)
        vocab_size = jnp.int32(self.tokenizer.vocab_size)
        self._batch, chosen = programs.decode(
            self.model, self.params, self._batch, rows, vocab_size, steps=steps
        )
        arrays = [np.asarray(array) for array in chosen]
        outputs = [
            _output(running, *(array[:, running.row] for array in arrays))
            for running in self._running
        ]
        self._running = [running for running in self._running if not running.writer.done]
        return outputs


def _output(
    running: Running,
    tokens: np.ndarray,
    nats: np.ndarray,
    top_ids: np.ndarray,
    top_logprobs: np.ndarray,
) -> Output:
    """Add a row's tokens, [steps], to its text."""
    text, infos, count = "", [], running.request.options.top_logprobs
    completion = None
    for token, cost, ids, logprobs in zip(tokens, nats, top_ids, top_logprobs, strict=True):
        running.tokens.append(int(token))
        if running.request.matcher is not None:
            running.request.matcher.accept(int(token))
        pairs = zip(ids[:count].tolist(), logprobs[:count].tolist(), strict=True)
        infos.append(TokenInfo(int(token), float(cost), tuple(pairs)))
        piece = running.writer.push([int(token)], [float(cost)])
        if piece is not None:
            text, completion = text + piece.text, piece.completion
        if running.writer.done:
            break
    return Output(running.request.id, text, tuple(infos), completion)


def _check_cache(model: Model) -> None:
    """Raises:
    UserError: the model's layers keep something that cannot be cut, grown and padded by position.
    """
    unknown = {field.name for field in fields(Cache)} - KEPT
    abstract: Any = None
    if unknown and not model.config.is_encoder_decoder:
        abstract = jax.eval_shape(lambda: model.init_cache(1, 1))
    for name in sorted(unknown):
        if jax.tree.leaves(getattr(abstract, name, None)):
            raise UserError(
                f"layers that keep {name}",
                "are not decoded in a continuous batch yet",
                "use llmjax generate or chat",
            )
