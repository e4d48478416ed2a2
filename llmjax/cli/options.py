"""Options that several verbs share."""

from dataclasses import dataclass, field, fields
from typing import Any

from llmjax.decoding.config import DecodingConfig, decoding_problems
from llmjax.model.compute import Dtype
from llmjax.parallel.mesh import MeshConfig
from llmjax.run.config.build import ConfigError
from llmjax.run.config.fields import flag

ONE_DEVICE = MeshConfig(fsdp=1)


def devices(mesh: MeshConfig) -> MeshConfig | None:
    """What is handed on for a --mesh: None for one device, which needs no mesh."""
    return None if mesh == ONE_DEVICE else mesh


@dataclass(frozen=True)
class ModelOptions:
    """How a run's model is loaded. The first base of a verb's options: its fields come last."""

    step: int | None = None
    """Which checkpoint; none: the best, of a run that goes by a metric, else the newest complete
    one."""
    dtype: Dtype | None = None
    """What parameters are held and computed in; none: held in float32, computed as trained."""
    mesh: MeshConfig = field(default_factory=lambda: ONE_DEVICE)
    """The devices that share the model."""

    def loading(self) -> dict[str, Any]:
        """Arguments of `load`, and of every function that loads a run."""
        return {"step": self.step, "dtype": self.dtype, "mesh": devices(self.mesh)}


@dataclass(frozen=True)
class TellingOptions:
    """How tasks tell their answers."""

    no_answer_threshold: float | None = None
    """Of questions: none is answered whose none_score is above this; none: as the run has it."""
    beams: int | None = None
    """Of written text: hypotheses kept side by side; none: as the run has it."""

    def telling(self) -> dict[str, Any]:
        """Arguments of `evaluate` and `predict`."""
        return {"no_answer_threshold": self.no_answer_threshold, "beams": self.beams}


@dataclass(frozen=True)
class DecodingOptions(DecodingConfig):
    """How text is written."""

    def decoding(self) -> DecodingConfig:
        """The fields of decoding alone.

        Raises:
          ConfigError: what is wrong with them, by the names of their options.
        """
        found = DecodingConfig(**{f.name: getattr(self, f.name) for f in fields(DecodingConfig)})
        if problems := decoding_problems(found):
            named = (problem.removeprefix("decoding.").partition(":") for problem in problems)
            raise ConfigError([f"{flag((name,))}:{said}" for name, _, said in named])
        return found
