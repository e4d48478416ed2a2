"""A text from a text: translation, summaries, answers."""

import logging
from collections import abc
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from llmjax.data.tables.table import Row, text_at
from llmjax.errors import UserError
from llmjax.losses.loss import Loss
from llmjax.losses.token_loss import token_loss
from llmjax.metrics.metric import Metrics
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.tasks.config import SequenceTask, name_of
from llmjax.tasks.continuing import Written, after, written
from llmjax.tasks.example import Example
from llmjax.tasks.task import Batch, Facts, Found, Outputs, Setting, Write, body

log = logging.getLogger(__name__)
NOTHING = np.zeros(0, np.float32)


@dataclass(frozen=True, eq=False)
class Sequence:
    """A text from a text. An encoder-decoder reads the one and writes the other; a decoder goes on
    from the one, and learns the other alone."""

    setting: Setting
    facts: Facts
    config: SequenceTask
    paired = False
    outputs_per_target = 0
    head = None

    def __post_init__(self) -> None:
        need_decoder(self.config, self.setting)

    @staticmethod
    def find(config: SequenceTask, rows: abc.Sequence[Row]) -> Facts:
        """Nothing; but a row without its text is an error.

        Raises:
          UserError: a row without source or target.
        """
        for row in rows:
            text_at(row, config.source), text_at(row, config.target)
        return Facts()

    def examples(self, rows: abc.Sequence[Row]) -> list[Example]:
        found, cut = [], 0
        for number, (row, ids) in enumerate(zip(rows, self._encoded(rows), strict=True)):
            one = self._written(row, ids)
            cut += one.cut
            found.append(Example((one.segment,), NOTHING, 1.0, number, one.prompt))
        if cut:
            log.warning("%d of %d texts are cut to %d tokens", cut, len(rows), self.setting.length)
        return found

    def loss(self, model: Model, params: Params, batch: Batch, key: jax.Array | None) -> Loss:
        smoothing = self.config.label_smoothing
        return token_loss(model, body(params), batch, dropout_key=key, label_smoothing=smoothing)

    def outputs(self, model: Model, params: Params, batch: Batch) -> Outputs:
        return Outputs({}, {})

    def predictions(
        self,
        rows: abc.Sequence[Row],
        examples: abc.Sequence[Example],
        found: abc.Sequence[Found],
        write: Write,
    ) -> list[dict[str, Any]]:
        prompts = [example.place for example in examples]
        texts = write(prompts, self.config.max_new_tokens, self.config.beams)  # type: ignore[arg-type]
        return [{"text": text.strip()} for text in texts]

    def measure(
        self, rows: abc.Sequence[Row], predictions: abc.Sequence[dict[str, Any]]
    ) -> Metrics:
        from llmjax.metrics.texts import translation

        references = [text_at(row, self.config.target) for row in rows]
        written = [one["text"] for one in predictions]
        return translation(references, written, self.config.bleu_tokenize)

    def _prompt(self, row: Row) -> str:
        return self.config.prompt.replace("{}", text_at(row, self.config.source))

    def _encoded(self, rows: abc.Sequence[Row]) -> list[list[int]]:
        return self.setting.tokenizer.encode_batch([self._prompt(row) for row in rows])

    def _written(self, row: Row, ids: list[int]) -> Written:
        if self.config.target not in row.values:
            return written(self.setting, ids, None)
        target, tokenizer = text_at(row, self.config.target), self.setting.tokenizer
        if self.setting.model.is_encoder_decoder:
            return written(self.setting, ids, tokenizer.encode(target))
        return written(self.setting, ids, after(tokenizer, self._prompt(row), ids, target))


def need_decoder(config: Any, setting: Setting) -> None:
    """Raises UserError where the model writes no text."""
    if not setting.model.num_decoder_layers:
        reason = "an encoder writes no text"
        raise UserError(f"task {name_of(config)}", reason, "use a decoder or an encoder-decoder")
