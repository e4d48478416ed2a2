"""The command `chat`: a conversation with a model."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from llmjax.data.chat_template.template import ChatTemplate, special_tokens
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.decoding.completions import stream_completions
from llmjax.decoding.config import DecodingConfig
from llmjax.errors import UserError
from llmjax.inference.language_model import LanguageModel, LoadOptions, loaded
from llmjax.run.config.options import keyword_options, make_options

Message = dict[str, str]
ANSWER = "\u2063turn\u2063"
"""Stands for an answer in a rendered template; no template has it of its own."""


@dataclass(frozen=True)
class ChatOptions(DecodingConfig, LoadOptions):
    """Options of chat."""

    max_new_tokens: int = 512
    """The most tokens of an answer; fewer where it ends or the context is full."""
    system: str | None = None
    """The system prompt."""


@keyword_options()
def chat(run: str | Path | LanguageModel, options: ChatOptions) -> "Conversation":
    """Begins a conversation.

    Args:
      run: a run folder, or a loaded model.
      options: fields of ChatOptions, also as keywords.

    Raises:
      UserError: there is no such run, or its model does not write text.
    """
    lm = loaded(run, options)
    if lm.model.config.num_encoder_layers or not lm.model.config.num_decoder_layers:
        raise UserError("this model", "is not a decoder", "only a decoder can chat")
    return Conversation(lm, make_options(DecodingConfig, options, {}), options.system)


class Script(Protocol):
    """How a conversation is written as tokens."""

    stop: tuple[str, ...]
    stop_ids: tuple[int, ...]

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """What the model reads, up to where its answer begins."""

    def close(self) -> None:
        """Frees what it holds."""


class Templated:
    """In the model's own chat template."""

    def __init__(self, tokenizer: Tokenizer, template: str):
        self._tokenizer = tokenizer
        self._template = ChatTemplate(template, special_tokens(tokenizer))
        self.stop: tuple[str, ...] = ()
        self.stop_ids = self._ends()

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        return self._tokenizer.encode_marked(self._template.render(messages))

    def close(self) -> None:
        self._template.close()

    def _ends(self) -> tuple[int, ...]:
        """The special token that the template puts behind an answer, if it does."""
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": ANSWER}]
        text = self._template.render(messages, add_generation_prompt=False)
        rest = self._tokenizer.encode_marked(text.rpartition(ANSWER)[2].lstrip())[:1]
        return tuple(set(rest) & set(self._tokenizer.special_tokens.values()))


class Plain:
    """For models without a chat template: a dialogue of lines with their speakers."""

    stop: tuple[str, ...] = ("\nUser:", "\nSystem:")
    stop_ids: tuple[int, ...] = ()

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        lines = [f"{message['role'].title()}: {message['content']}\n" for message in messages]
        ids = self._tokenizer.encode("".join([*lines, "Assistant:"]))
        return [*self._tokenizer.prefix, *ids]

    def close(self) -> None:
        pass


@dataclass
class Conversation:
    """Messages so far, and a model that answers; close it, or use it in a `with`.

    Attributes:
      lm: the model.
      config: how answers are written.
      system: the system prompt.
    """

    lm: LanguageModel
    config: DecodingConfig
    system: str | None = None

    def __post_init__(self) -> None:
        template, tokenizer = self.lm.tokenizer.chat_template, self.lm.tokenizer
        self.is_templated = template is not None
        self._script: Script = Templated(tokenizer, template) if template else Plain(tokenizer)
        self._turns: list[Message] = []
        self.dropped = 0

    def __enter__(self) -> "Conversation":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees what the template holds."""
        self._script.close()

    @property
    def messages(self) -> list[Message]:
        """All messages, {"role": ..., "content": ...}, the system prompt first."""
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return first + self._turns

    def reset(self) -> None:
        """Forgets all but the system prompt."""
        self._turns = []

    def ask(self, text: str) -> Generator[str, None, None]:
        """Sends a message; yields the answer as it comes. Closing this early keeps what came.

        Where the context is too short for all, the oldest turns are forgotten; `dropped` is how
        many of them this answer cost.

        Raises:
          UserError: the template refuses, or the text alone is longer than the context.
        """
        before = list(self._turns)
        self._turns.append({"role": "user", "content": text})
        try:
            tokens = self._fitting()
        except UserError:
            self._turns = before
            raise
        return self._answer(tokens)

    def _answer(self, tokens: list[int]) -> Generator[str, None, None]:
        answer: list[str] = []
        stop = (*self.config.stop, *self._script.stop)
        pieces = stream_completions(
            self.lm.model,
            self.lm.params,
            self.lm.tokenizer,
            [tokens],
            replace(self.config, samples=1, batch_size=1, stop=stop),
            self.lm.mesh,
            self._script.stop_ids,
        )
        try:
            for piece in pieces:
                part = piece.text if answer else piece.text.lstrip()
                if part:
                    answer.append(part)
                    yield part
        finally:
            content = "".join(answer).rstrip()
            self._turns.append({"role": "assistant", "content": content})

    def _fitting(self) -> list[int]:
        """The tokens that leave room for an answer; forgets turns where it must."""
        context, self.dropped = self.lm.model.config.max_length, 0
        room = min(self.config.max_new_tokens, context // 2)
        while True:
            tokens = self._script.tokens(self.messages)
            if len(tokens) + room <= context + 1:
                return tokens
            if len(self._turns) == 1:
                if len(tokens) <= context:
                    return tokens
                raise UserError(
                    f"a message of {len(tokens)} tokens",
                    f"is longer than the model's context of {context}",
                    "shorten it",
                )
            del self._turns[:2]
            self.dropped += 1
