"""What tasks of single tokens have in common."""

from dataclasses import dataclass

import jax

from llmjax.errors import UserError
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.tasks import heads
from llmjax.tasks.config import AnswerTask, TokenTask, name_of
from llmjax.tasks.heads import Head
from llmjax.tasks.states import token_states
from llmjax.tasks.task import Batch, Facts, Setting


@dataclass(frozen=True, eq=False)
class OfTokens:
    """One head on the state of each token."""

    setting: Setting
    facts: Facts
    paired = False

    def token_head(self, config: TokenTask | AnswerTask, outputs: int) -> Head:
        """Raises UserError where the model is an encoder-decoder."""
        if self.setting.model.is_encoder_decoder:
            raise UserError(
                f"task {name_of(config)}",
                "an encoder-decoder has no state for each token of a text that it reads",
                "use an encoder or a decoder",
            )
        return heads.token_head(self.setting.model, outputs)

    def logits(
        self,
        config: TokenTask | AnswerTask,
        head: Head,
        model: Model,
        params: Params,
        batch: Batch,
        key: jax.Array | None,
    ) -> jax.Array:
        """[R, L, outputs] float32."""
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        states = token_states(model, params, batch, keys[0])
        return head(model, params, params["heads"][name_of(config)], states, keys[1])
