"""The better of two answers, against the model as it began (DPO, arXiv:2305.18290)."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from llmjax.data.tables.table import Row, text_at
from llmjax.errors import UserError
from llmjax.losses.loss import Loss, likelihood_loss
from llmjax.metrics.metric import Metrics
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.tasks.chat import fit, only_decoders
from llmjax.tasks.config import PreferenceTask
from llmjax.tasks.continuing import after, marked, written
from llmjax.tasks.conversations import PLAIN, Speller, spelling
from llmjax.tasks.example import Example, Segment
from llmjax.tasks.messages import ASSISTANT, Message, checked, context_at
from llmjax.tasks.packing import shape_of
from llmjax.tasks.running import outputs
from llmjax.tasks.sums import segment_nats
from llmjax.tasks.task import Batch, Facts, Found, Outputs, Setting, Write

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Preference:
    """The better of two answers.

    An example is both, each after its prompt; its target is the log-likelihood that the model gave
    each as training began. Those are among the facts, by the examples' tokens (see `refer`);
    answers without them are compared by their likelihood alone.
    """

    setting: Setting
    facts: Facts
    config: PreferenceTask
    paired = True
    outputs_per_target = 2
    head = None

    def __post_init__(self) -> None:
        only_decoders(self.config, self.setting)

    @staticmethod
    def find(config: PreferenceTask, rows: Sequence[Row]) -> Facts:
        """The template of tokenizers that have none."""
        return Facts(chat_template=PLAIN)

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """Pairs of equal answers weigh nothing."""
        found, cut, equal = [], 0, list[str]()
        for number, (segments, shortened) in enumerate(self._pairs(rows)):
            cut += shortened
            if segments[0] == segments[1]:
                equal.append(rows[number].place)
            weight = float(segments[0] != segments[1])
            found.append(Example(segments, np.zeros(2, np.float32), weight, number))
        length = self.setting.length // 2
        if cut:
            log.warning("%d of %d pairs have an answer cut to %d tokens", cut, len(rows), length)
        if equal:
            what = f"whose answers are equal within {length} tokens, which teach nothing"
            log.warning("%d of %d pairs %s (the first: %s)", len(equal), len(rows), what, equal[0])
        return self.referred(found)

    def referred(self, examples: Sequence[Example]) -> list[Example]:
        """The same examples, with what the facts know of their answers; place says whether."""
        known = {key: np.array(told, np.float32) for key, *told in self.facts.references}
        found = [known.get(digest(example.segments)) for example in examples]
        return [
            example._replace(target=np.zeros(2, np.float32), place=False)
            if told is None
            else example._replace(target=told, place=True)
            for example, told in zip(examples, found, strict=True)
        ]

    def refer(
        self,
        model: Model,
        params: Params,
        examples: Sequence[Example],
        *,
        batch_size: int,
        mesh: Mesh | None,
    ) -> Facts:
        """The facts with what a model says of examples: those to learn from, and to measure on.

        Args:
          model: the model.
          params: as training begins.
          examples: all whose references are wanted.
          batch_size: rows of tokens at once.
          mesh: where params live; None for one device.
        """
        length = self.setting.length
        shape = shape_of(examples, length, encodes=model.config.is_encoder_decoder)
        found = outputs(self, model, params, examples, shape, batch_size, mesh)
        known = {key: (key, chosen, rejected) for key, chosen, rejected in self.facts.references}
        for example, one in zip(examples, found, strict=True):
            key, (chosen, rejected) = digest(example.segments), one["log_likelihoods"].tolist()
            known[key] = (key, chosen, rejected)
        return replace(self.facts, references=tuple(known.values()))

    def loss(self, model: Model, params: Params, batch: Batch, key: jax.Array | None) -> Loss:
        """-log sigmoid(beta x (the better answer's gain - the worse one's))."""
        gains = self._likelihoods(model, params, batch, key) - batch["slot_targets"]
        margins = self.config.beta * (gains[..., 0] - gains[..., 1])
        weights = batch["slot_weights"]
        live = weights > 0
        nats = jnp.where(live, weights * jax.nn.softplus(-margins), 0.0).sum()
        right = jnp.where(live, weights * 0.5 * (1 + jnp.sign(margins)), 0.0).sum()
        return likelihood_loss(nats, nats, weights.sum(), right)

    def outputs(self, model: Model, params: Params, batch: Batch) -> Outputs:
        return Outputs({"log_likelihoods": self._likelihoods(model, params, batch, None)}, {})

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Example], found: Sequence[Found], write: Write
    ) -> list[dict[str, Any]]:
        """Each answer's log-likelihood, and how much more the better one's reward is."""
        told = []
        for example, one in zip(examples, found, strict=True):
            gains = one["log_likelihoods"] - example.target
            chosen, rejected = map(float, one["log_likelihoods"])
            told.append(
                {
                    "chosen": chosen,
                    "rejected": rejected,
                    "margin": self.config.beta * float(gains[0] - gains[1]),
                    "against_reference": bool(example.place),
                }
            )
        return told

    def measure(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Metrics:
        from llmjax.metrics.numbers import preference

        return preference(np.array([one["margin"] for one in predictions]))

    def _likelihoods(
        self, model: Model, params: Params, batch: Batch, key: jax.Array | None
    ) -> jax.Array:
        """[R, E, 2] float32: of the better answer, of the worse."""
        nats = segment_nats(model, params, batch, key, segments=2)
        return -nats.reshape(nats.shape[0], -1, 2)

    def _pairs(self, rows: Sequence[Row]) -> Iterator[tuple[tuple[Segment, Segment], bool]]:
        """Both answers of each row, and whether one of them is cut."""
        template = self.setting.tokenizer.chat_template or self.facts.chat_template or PLAIN
        with Speller(self.setting.tokenizer, template) as speller:
            for row in rows:
                columns = (self.config.chosen, self.config.rejected)
                (a, first), (b, second) = (self._segment(row, one, speller) for one in columns)
                yield (a, b), first or second

    def _segment(self, row: Row, column: str, speller: Speller) -> tuple[Segment, bool]:
        half = self.setting._replace(length=max(1, self.setting.length // 2))
        messages = self._messages(row, column)
        if messages is not None:
            context = context_at(row, self.config.tools, self.config.documents)
            with spelling(row):
                (spelt,) = speller.spell(messages, context, last=True)
            fitted = fit(spelt, half.length)
            return marked(fitted.tokens, fitted.spans), fitted is not spelt
        prompt, tokenizer = text_at(row, self.config.prompt), half.tokenizer
        ids = tokenizer.encode(prompt)
        one = written(half, ids, after(tokenizer, prompt, ids, text_at(row, column)))
        return one.segment, one.cut

    def _messages(self, row: Row, column: str) -> list[Message] | None:
        """The conversation that ends with an answer; None where all is text.

        An answer may be text, messages, or the whole conversation with its prompt.
        """
        prompt, answer = row.values.get(self.config.prompt), row.values.get(column)
        if not isinstance(prompt, list) and not isinstance(answer, list):
            return None
        if isinstance(answer, list):
            said = checked(row, column, answer)
        else:
            said = [{"role": ASSISTANT, "content": text_at(row, column)}]
        if said[-1]["role"] != ASSISTANT:
            where = f"{row.place}, column {column!r}"
            raise UserError(where, "does not end with the assistant", "mend the row")
        if said[0]["role"] != ASSISTANT:
            return said
        if isinstance(prompt, list):
            return [*checked(row, self.config.prompt, prompt), *said]
        return [{"role": "user", "content": text_at(row, self.config.prompt)}, *said]


def digest(segments: Sequence[Segment]) -> str:
    """Names an example by what is read and what counts."""
    found = hashlib.blake2b(digest_size=12)
    for segment in segments:
        for part in (segment.tokens, segment.targets, segment.weights):
            found.update(np.asarray(part, np.float32).tobytes() + b"|")
    return found.hexdigest()
