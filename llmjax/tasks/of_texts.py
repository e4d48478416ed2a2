"""What tasks of whole texts have in common."""

from dataclasses import dataclass
from typing import Any

import jax

from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.tasks import heads
from llmjax.tasks.config import ClassificationTask, MultiLabelTask, RegressionTask, name_of
from llmjax.tasks.heads import Head
from llmjax.tasks.states import text_states
from llmjax.tasks.task import Batch, Facts, Setting

TextTask = ClassificationTask | MultiLabelTask | RegressionTask


@dataclass(frozen=True, eq=False)
class OfTexts:
    """One head on the state that stands for a text."""

    setting: Setting
    facts: Facts
    paired = False

    def text_head(self, config: TextTask, outputs: int, start: tuple[float, ...] = ()) -> Head:
        return heads.text_head(self.setting.model, outputs, name_of(config), start)

    def logits(
        self, config: TextTask, head: Head, model: Model, params: Params, batch: Batch, key: Any
    ) -> jax.Array:
        """[R, E, outputs] float32."""
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        states = text_states(model, params, batch, keys[0])
        own = params["heads"][name_of(config)]
        return head(model, params, own, states, keys[1])
