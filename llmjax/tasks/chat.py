"""Conversations: what the assistant says in them is learnt."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from llmjax.data.tables.table import Row
from llmjax.errors import UserError
from llmjax.losses.loss import Loss
from llmjax.losses.token_loss import token_loss
from llmjax.metrics.metric import Metrics
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.tasks.config import ChatTask, name_of
from llmjax.tasks.continuing import marked
from llmjax.tasks.conversations import PLAIN, Speller, Spelt, spelling
from llmjax.tasks.example import Example
from llmjax.tasks.messages import ASSISTANT, context_at, messages_at
from llmjax.tasks.sums import told_in_slots
from llmjax.tasks.task import Batch, Facts, Found, Outputs, Setting, Write, body

log = logging.getLogger(__name__)
NOTHING = np.zeros(0, np.float32)
NEW_TOKENS = 256
"""The longest answer that is written where a conversation waits for one; at most half a row."""


@dataclass(frozen=True, eq=False)
class Chat:
    """Conversations in the model's chat template; only what the assistant says is learnt."""

    setting: Setting
    facts: Facts
    config: ChatTask
    paired = False
    outputs_per_target = 0
    head = None

    def __post_init__(self) -> None:
        only_decoders(self.config, self.setting)

    @staticmethod
    def find(config: ChatTask, rows: Sequence[Row]) -> Facts:
        """The template of tokenizers that have none.

        Raises:
          UserError: a row without messages, or in which the assistant says nothing.
        """
        for row in rows:
            if all(one["role"] != ASSISTANT for one in messages_at(row, config.messages)):
                where = f"{row.place}, column {config.messages!r}"
                raise UserError(where, "the assistant says nothing", "remove the row")
        return Facts(chat_template=PLAIN)

    @property
    def template(self) -> str:
        """How messages are spelt."""
        return self.setting.tokenizer.chat_template or self.facts.chat_template or PLAIN

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """A conversation is one example; see `Speller.spell` for when it is several."""
        found, cut = list[Example](), 0
        with Speller(self.setting.tokenizer, self.template) as speller:
            for number, row in enumerate(rows):
                messages = messages_at(row, self.config.messages)
                context = context_at(row, self.config.tools, self.config.documents)
                waits = messages[-1]["role"] != ASSISTANT
                with spelling(row):
                    prompt = speller.prompt(messages, context) if waits else None
                    spelt = speller.spell(messages, context) or [Spelt(prompt or [], [])]
                for one in spelt:
                    fitted = fit(one, self.setting.length)
                    cut += fitted is not one
                    segment = marked(fitted.tokens, fitted.spans)
                    found.append(Example((segment,), NOTHING, 1.0, number, prompt))
        if cut:
            length = self.setting.length
            log.warning("%d of %d conversations are cut to %d tokens", cut, len(rows), length)
        return found

    def loss(self, model: Model, params: Params, batch: Batch, key: jax.Array | None) -> Loss:
        return token_loss(model, body(params), batch, dropout_key=key)

    def outputs(self, model: Model, params: Params, batch: Batch) -> Outputs:
        nats, hits, weights = told_in_slots(model, params, batch)
        return Outputs({"nats": nats, "correct": hits, "tokens": weights}, {})

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Example], found: Sequence[Found], write: Write
    ) -> list[dict[str, Any]]:
        """What the assistant's words cost; an answer, where a conversation waits for one."""
        told: list[dict[str, Any]] = [{} for _ in rows]
        for example, one in zip(examples, found, strict=True):
            if one["tokens"]:
                for name, value in one.items():
                    told[example.row][name] = told[example.row].get(name, 0.0) + float(value)
        asked = {one.row: one.place for one in examples if one.place is not None}
        most = min(NEW_TOKENS, self.setting.length // 2)
        prompts = [prompt[most - self.setting.length :] for prompt in asked.values()]  # type: ignore[index]
        for row, text in zip(asked, write(prompts, most, 1) if asked else [], strict=True):
            told[row]["text"] = text.strip()
        return told

    def measure(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Metrics:
        from llmjax.metrics.texts import language

        columns = ("nats", "tokens", "correct")
        return language(
            *(np.array([one.get(name, 0.0) for one in predictions]) for name in columns)
        )


def fit(spelt: Spelt, length: int) -> Spelt:
    """As much of a conversation as a row takes: its beginning, or where the assistant is silent in
    that, its end. What has room comes back as it is."""
    most = length + 1  # the last token is told, never read
    if len(spelt.tokens) <= most:
        return spelt
    silent = not any(first < most for first, _ in spelt.spans)
    start = len(spelt.tokens) - most if silent else 0
    spans = [(max(first - start, 0), min(end - start, most)) for first, end in spelt.spans]
    return Spelt(spelt.tokens[start : start + most], [(a, b) for a, b in spans if a < b])


def only_decoders(config: Any, setting: Setting) -> None:
    """Raises UserError where the model is no decoder alone."""
    if setting.model.num_encoder_layers or not setting.model.num_decoder_layers:
        reason = "only a decoder reads and writes in turn"
        raise UserError(f"task {name_of(config)}", reason, "begin with a decoder")
