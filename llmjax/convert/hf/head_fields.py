"""Fields that say what stands on top of a model; its tensors have a say in it too."""

from dataclasses import dataclass
from typing import Any

from llmjax.convert.hf.fields import Theirs
from llmjax.model.config import ModelConfig


@dataclass(frozen=True)
class Tied:
    """Whether the logits use the embedding.

    Config files are not to be relied upon here: those of T5 1.1 say one thing, and another after
    Transformers 5 has written them. Where both tensors are there, they decide.
    """

    head: str
    embedding: str
    default: bool
    always_where_alone: bool = False
    """A model without a head of its own is tied, whatever its config says."""

    def read(self, theirs: Theirs) -> dict[str, Any]:
        said = theirs.take("tie_word_embeddings", bool, self.default)
        if theirs.has(self.head):
            said = said and (
                theirs.equal(self.head, self.embedding) or not theirs.has(self.embedding)
            )
        elif self.always_where_alone:
            said = True
        return {"tie_embeddings": said}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {"tie_word_embeddings": config.tie_embeddings}


@dataclass(frozen=True)
class Head:
    """What an encoder has on top, as its tensors show: a masked-word head, a pooler."""

    transform: str
    """A tensor that only a masked-word head has."""
    pooler: str = ""
    """A tensor that only a pooler has."""
    bias_field: str = ""
    """A field that says whether the logits have a bias; "" where they always do."""

    def read(self, theirs: Theirs) -> dict[str, Any]:
        head, bias = theirs.has(self.transform), True
        if self.bias_field:
            bias = theirs.take(self.bias_field, bool, True)
        return {
            "unembed_transform": head,
            "unembed_bias": head and bias,
            "pooler": bool(self.pooler) and theirs.has(self.pooler),
        }

    def write(self, config: ModelConfig) -> dict[str, Any]:
        bias = config.unembed_bias or not config.unembed_transform
        return {self.bias_field: bias} if self.bias_field else {}
