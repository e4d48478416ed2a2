"""Tasks with a token-level head, and the hidden states of packed batches."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from llmjax.errors import UserError
from llmjax.parallel import mesh
from llmjax.tasks import heads
from llmjax.tasks.heads import Head
from llmjax.tasks.task import Batch, Task, body

if TYPE_CHECKING:
    from llmjax.model.aux_sums import Aux
    from llmjax.model.model import Model
    from llmjax.model.params import Params

MODEL_INPUTS = (
    "positions",
    "segments",
    "token_types",
    "encoder_tokens",
    "encoder_positions",
    "encoder_segments",
)


def token_states(
    model: "Model", params: "Params", batch: Batch, key: jax.Array | None
) -> "tuple[jax.Array, Aux]":
    """Return the last hidden states, [R, L, D] in the compute dtype, not sharded along L; and the
    sums that layers report."""
    names = [name for name in MODEL_INPUTS if name != "token_types" or model.config.token_types]
    inputs = {name: batch[name] for name in names if name in batch}
    found = model.hidden_and_aux(body(params), batch["inputs"], **inputs, dropout_key=key)
    return mesh.reshard(found.states, "batch", None, None), found.aux


def slot_mask(batch: Batch, segments: int = 1) -> jax.Array:
    """Return whether each token belongs to each segment, bool [R, E x segments, L]."""
    owner = mesh.reshard(batch["segments"], "batch", None)
    numbers = jnp.arange(1, 1 + segments * batch["slot_weights"].shape[1])
    return owner[:, None, :] == numbers[None, :, None]


@dataclass(frozen=True, eq=False)
class TokenTask(Task):
    """A task with one head on the state of each token."""

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Outputs of the head per token."""

    @property
    def head(self) -> Head:
        """The head of published taggers of the model's family; UserError for encoder-decoders."""
        if self.context.model.is_encoder_decoder:
            raise UserError(
                f"task {self.name}",
                "an encoder-decoder has no head for single tokens",
                "use an encoder or a decoder",
            )
        return heads.token_head(self.context.model, self.num_outputs)

    def logits(
        self, model: "Model", params: "Params", batch: Batch, key: jax.Array | None
    ) -> "tuple[jax.Array, Aux]":
        """[R, L, outputs] float32, and the sums that layers report."""
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        states, aux = token_states(model, params, batch, keys[0])
        return self.head(model, params, params["heads"][self.name], states, keys[1]), aux
