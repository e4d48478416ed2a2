"""As what a run's model is written: whole, or with the head of one task."""

from dataclasses import dataclass, replace

from llmjax.convert.families import Family, family_for
from llmjax.convert.hf.heads import Headed, headed
from llmjax.convert.hf.mapping import Match, plan_tensors
from llmjax.convert.hf.sentence import Sentence
from llmjax.convert.tensors import Planned
from llmjax.inference.vector_steps import step_of
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.run.origin import Origin, Pooling
from llmjax.tasks.similarity import Similarity
from llmjax.tasks.task import Task


@dataclass(frozen=True)
class Whole:
    """A model as it was published: with what it writes text or fills masks by, or without.

    Attributes:
      family: which.
      shape: what its config.json states.
    """

    family: Family
    shape: ModelConfig

    def tensors(self, params: Params, dtype: str | None) -> list[Planned]:
        """What is written of the parameters, in a dtype or in their own."""
        plan = plan_tensors(params, Match(self.family.table, Model(self.shape)), dtype)
        return [replace(tensor, name=self.called(tensor.name)) for tensor in plan]

    def called(self, name: str) -> str:
        """What a tensor or module of the family's table is called; a base model has no prefix."""
        base = bool(self.family.base_architecture) and not self.shape.unembed_transform
        return name.removeprefix(self.family.table.prefix) if base else name


def form_of(shape: ModelConfig, task: Task | None, preferred: str | None) -> Whole | Headed:
    """As what a model is written: with its task's head, or as it is.

    Raises:
      UserError: nothing that was published is like it.
    """
    if task is not None and task.head is not None:
        return headed(task, shape, preferred)
    if isinstance(task, Similarity) and not shape.num_decoder_layers:
        # What it fills masks by is left out.
        shape = replace(shape, unembed_transform=False, unembed_bias=False, tie_embeddings=True)
    return Whole(family_for(shape, preferred), shape)


def sentence_of(shape: ModelConfig, task: Task | None, origin: Origin | None) -> Sentence | None:
    """How tokens' states become a text's vector, where the model is for that: as its task made
    them, or as it was published."""
    if isinstance(task, Similarity):
        pooling: Pooling = "mean" if shape.num_encoder_layers else "last"
        return Sentence("", pooling, normalize=True, length=task.max_tokens)
    if task is not None or origin is None or origin.pooling is None:
        return None
    return Sentence(
        pooling=origin.pooling,
        normalize=origin.normalize,
        length=origin.length,
        concatenated=tuple(origin.concatenated),
        steps=tuple(map(step_of, origin.steps)),
        truncate=origin.truncate,
        prompts=origin.prompts,
        default_prompt=origin.default_prompt,
        include_prompt=origin.include_prompt,
        similarity=origin.similarity,
    )
