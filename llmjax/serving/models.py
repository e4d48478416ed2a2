"""A served run: its engine's thread, its format of conversations, its embeddings."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmjax.decoding.completions import make_jobs
from llmjax.decoding.config import DecodingConfig
from llmjax.engine.config import EngineConfig
from llmjax.engine.engine import Engine
from llmjax.errors import UserError
from llmjax.inference.chat import ChatFormat, PlainFormat, TemplateFormat
from llmjax.inference.embed import embed
from llmjax.inference.language_model import LanguageModel, LoadOptions, load
from llmjax.run.config.options import make_options
from llmjax.serving.options import ServeOptions
from llmjax.serving.surprisal import GivenToken, given_tokens
from llmjax.serving.worker import Worker


class ServedModel:
    """A run that answers requests.

    Attributes:
      name: in requests.
      lm: the loaded run.
      worker: its engine; None for an encoder, which only embeds.
    """

    def __init__(self, name: str, lm: LanguageModel, config: EngineConfig):
        self.name, self.lm = name, lm
        self.worker: Worker | None = None
        self._format: ChatFormat | None = None
        self._lock = threading.Lock()
        shape = lm.model.config
        if shape.num_decoder_layers:
            self.worker = Worker(Engine(lm.model, lm.params, lm.tokenizer, config, lm.mesh))
            if not shape.num_encoder_layers:
                template = lm.tokenizer.chat_template
                plain = PlainFormat(lm.tokenizer)
                self._format = TemplateFormat(lm.tokenizer, template) if template else plain

    def close(self) -> None:
        """Stop the engine and the template's process."""
        if self.worker is not None:
            self.worker.close()
        if self._format is not None:
            self._format.close()

    def running(self) -> Worker:
        """The engine's thread.

        Raises:
          UserError: an encoder generates nothing.
        """
        if self.worker is None:
            raise UserError(f"model {self.name}", "is an encoder", "ask it for embeddings")
        return self.worker

    def chat_format(self) -> ChatFormat:
        """How conversations become tokens.

        Raises:
          UserError: the model is not a decoder.
        """
        if self._format is None:
            raise UserError(f"model {self.name}", "is not a decoder", "only a decoder can chat")
        return self._format

    def conversation(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None
    ) -> list[int]:
        """Encode messages up to the start of the answer; for one thread at a time, which it
        ensures.

        Raises:
          UserError: the template rejects them, or takes no tools.
        """
        chat_format = self.chat_format()
        with self._lock:
            if isinstance(chat_format, TemplateFormat):
                return chat_format.tokens(messages, tools)
            if tools:
                raise UserError("tools", "need a chat template, which this model has not")
            return chat_format.tokens(messages)

    def prompt(self, text: str | Sequence[int]) -> list[int]:
        """A prompt's tokens, special ones included.

        Raises:
          UserError: it exceeds the context, or holds ids that are none.
        """
        size = self.lm.tokenizer.vocab_size
        if not isinstance(text, str) and not all(0 <= token < size for token in text):
            raise UserError("prompt", f"holds ids outside 0 to {size - 1}")
        (job,) = make_jobs(self.lm.model.config, self.lm.tokenizer, [text], DecodingConfig())
        return list(job.request.prompt)

    def scores(
        self, prompt: str | Sequence[int], top: int
    ) -> tuple[list[GivenToken], list[int], int]:
        """A prompt's own tokens scored, the characters at which they begin, and the number of
        tokens that were read; for one thread at a time."""
        tokenizer = self.lm.tokenizer
        read = self.prompt(prompt)
        if isinstance(prompt, str):
            ids, spans = tokenizer.encode_offsets(prompt)
            prefix, offsets = read[: len(read) - len(ids)], [first for first, _ in spans]
        else:
            ids, prefix = list(read), []
            sizes = [len(tokenizer.decode([token])) for token in ids]
            offsets = [sum(sizes[:index]) for index in range(len(ids))]
        with self._lock:
            return given_tokens(self.lm, prefix, ids, top), offsets, len(read)

    def embeddings(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """Vectors float32 [texts, width], and the texts' tokens; for one thread at a time."""
        with self._lock:
            vectors = embed(self.lm, text=tuple(texts))
        return vectors, sum(map(len, self.lm.tokenizer.encode_batch(list(texts))))


def load_models(runs: Sequence[str], options: ServeOptions) -> list[ServedModel]:
    """Load runs; each is named by its folder.

    Raises:
      UserError: as `load`, or two have the same name.
    """
    names = [run.rstrip("/").rpartition("/")[2] for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two runs named {name}", "cannot be told apart", "rename a folder")
    loading, config = (
        make_options(LoadOptions, options, {}),
        make_options(EngineConfig, options, {}),
    )
    return [
        ServedModel(name, load(run, options=loading), config)
        for name, run in zip(names, runs, strict=True)
    ]
