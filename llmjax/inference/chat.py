"""The command `chat`: a conversation with a model."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, Protocol

from llmjax.data.chat_template.template import ChatTemplate, Context, special_tokens
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.decoding.completions import Completion
from llmjax.decoding.config import SAMPLING, DecodingConfig, decoding_problems
from llmjax.errors import UserError
from llmjax.inference.language_model import LanguageModel, LoadOptions, loaded
from llmjax.run.config.options import keyword_options, make_options
from llmjax.run.folder import local_folder
from llmjax.run.origin import published_generation, read_origin

Message = dict[str, str]
ANSWER = "\u2063turn\u2063"
"""Placeholder of an answer in a rendered template; no template contains it."""


@dataclass(frozen=True)
class ChatOptions(DecodingConfig, LoadOptions):
    """Options of chat."""

    max_new_tokens: int = 512
    """Maximum tokens of an answer; fewer if it ends or the context is full."""
    system: str | None = None
    """The system prompt."""


def default_options(run: str | PathLike[str] | LanguageModel) -> ChatOptions:
    """The defaults of chat, with the sampling that the model's publisher recommends in
    generation_config.json or in a GGUF file.

    Raises:
      UserError: the run's origin.json is damaged.
    """
    folder = local_folder(run.config.run_dir if isinstance(run, LanguageModel) else run)
    return replace(ChatOptions(), **_recommended(published_generation(read_origin(folder))))


def _recommended(stored: dict[str, Any]) -> dict[str, Any]:
    """The valid sampling fields of a generation_config.json; values that filter nothing are None.

    A field that is missing keeps our default, as in vLLM; Transformers has defaults of its own.
    """
    off = {"top_k": (0, -1), "top_p": (1,), "min_p": (0,), "repetition_penalty": (1,)}
    fields: dict[str, Any] = {}
    for name in SAMPLING:
        value = stored.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        choice = None if value in off.get(name, ()) else int(value) if name == "top_k" else value
        field: dict[str, Any] = {name: choice}
        if not decoding_problems(replace(DecodingConfig(), **field)):
            fields |= field
    if stored.get("do_sample") is False:
        fields["temperature"] = 0.0
    return fields


@keyword_options(defaults=default_options)
def chat(run: str | PathLike[str] | LanguageModel, options: ChatOptions) -> "Conversation":
    """Start a conversation.

    Args:
      run: a run folder, or a loaded model.
      options: fields of ChatOptions, also as keywords; the defaults of sampling are those that the
        model's publisher recommends.

    Returns:
      The conversation. Its method `ask` sends a message and yields the answer in pieces; `messages`
      are all messages so far. Close it, or use it in a `with` statement.

    Raises:
      UserError: there is no such run, or its model is not a decoder.
    """
    lm = loaded(run, options)
    if lm.model.config.num_encoder_layers or not lm.model.config.num_decoder_layers:
        raise UserError("this model", "is not a decoder", "only a decoder can chat")
    return Conversation(lm, make_options(DecodingConfig, options, {}), options.system)


class ChatFormat(Protocol):
    """Formats a conversation as tokens."""

    stop: tuple[str, ...]
    stop_ids: tuple[int, ...]

    def tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Encode the messages, up to the start of the answer."""

    def close(self) -> None:
        """Free the template's resources."""


class TemplateFormat:
    """The model's chat template."""

    def __init__(self, tokenizer: Tokenizer, template: str):
        self._tokenizer = tokenizer
        self._template = ChatTemplate(template, special_tokens(tokenizer))
        self.stop: tuple[str, ...] = ()
        self.stop_ids = self._end_ids()

    def tokens(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        text = self._template.render(messages, context=Context(tools))
        return self._tokenizer.encode_marked(text)

    def close(self) -> None:
        self._template.close()

    def _end_ids(self) -> tuple[int, ...]:
        """Return the special token that the template puts after an answer, if any."""
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": ANSWER}]
        text = self._template.render(messages, add_generation_prompt=False)
        rest = self._tokenizer.encode_marked(text.rpartition(ANSWER)[2].lstrip())[:1]
        return tuple(set(rest) & set(self._tokenizer.special_tokens.values()))


class PlainFormat:
    """A dialogue with a line per message, for models without a chat template."""

    stop: tuple[str, ...] = ("\nUser:", "\nSystem:")
    stop_ids: tuple[int, ...] = ()

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    def tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        lines = [f"{message['role'].title()}: {message['content']}\n" for message in messages]
        ids = self._tokenizer.encode("".join([*lines, "Assistant:"]))
        return [*self._tokenizer.prefix, *ids]

    def close(self) -> None:
        pass


@dataclass
class Conversation:
    """The messages so far, and a model that answers; use it as a context manager, or close it.

    Attributes:
      lm: the model.
      config: how answers are generated.
      system: the system prompt.
      dropped: turns dropped for the last message, as the context was full.
      completion: of the last answer; None if there is none or it was closed early.
    """

    lm: LanguageModel
    config: DecodingConfig
    system: str | None = None

    def __post_init__(self) -> None:
        template, tokenizer = self.lm.tokenizer.chat_template, self.lm.tokenizer
        self.is_templated = template is not None
        self._format: ChatFormat = (
            TemplateFormat(tokenizer, template) if template else PlainFormat(tokenizer)
        )
        self._turns: list[Message] = []
        self.dropped = 0
        self.completion: Completion | None = None

    def __enter__(self) -> "Conversation":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the template's resources."""
        self._format.close()

    @property
    def messages(self) -> list[Message]:
        """All messages, {"role": ..., "content": ...}, the system prompt first."""
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return first + self._turns

    def reset(self) -> None:
        """Drop all messages but the system prompt."""
        self._turns = []

    def ask(self, text: str) -> Generator[str, None, None]:
        """Send a message; yield the answer as it is generated. Closing early keeps the part so far.

        If the context is too short, the oldest turns are dropped; `dropped` counts those dropped
        for this answer.

        Raises:
          UserError: the template rejects the messages, or the text alone exceeds the context.
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
        stop = (*self.config.stop, *self._format.stop)
        config = replace(self.config, samples=1, batch_size=1, stop=stop)
        pieces = self.lm.complete([tokens], config, self._format.stop_ids)
        self.completion = None
        try:
            for piece in pieces:
                self.completion = piece.completion
                new_text = piece.text if answer else piece.text.lstrip()
                if new_text:
                    answer.append(new_text)
                    yield new_text
        finally:
            content = "".join(answer).rstrip()
            self._turns.append({"role": "assistant", "content": content})

    def _fitting(self) -> list[int]:
        """Encode the messages, dropping the oldest turns until there is space for an answer."""
        context, self.dropped = self.lm.model.config.max_length, 0
        space = min(self.config.max_new_tokens, context // 2)
        while True:
            tokens = self._format.tokens(self.messages)
            if len(tokens) + space <= context + 1:
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
