"""Memory of a device in a training step, by kind (analytic)."""

from dataclasses import dataclass, fields, replace

from llmjax.losses.fused import CHUNK_BYTES, CHUNK_TOKENS
from llmjax.model.config import ModelConfig
from llmjax.model.layer_types import layer_types
from llmjax.parallel.pipeline import NO_PIPELINE, Schedule
from llmjax.run.planning.parameters import StateBytes

CODE = 0.15e9
"""Bytes of a compiled step on an accelerator."""
WORKING = 1.5
"""Arrays of a layer's backward pass, as a multiple of what its forward pass computes."""
RESERVE = 0.02
"""Share of a device's memory that fragmentation takes."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    parameters: float
    gradients: float
    """Of a step; with accumulation, also of a microbatch."""
    optimizer: float
    activations: float
    """That the forward pass keeps for the backward pass, by the remat policy."""
    layer: float
    """Of the layer whose backward pass runs: what it recomputes, and its weights, gathered. The
    loss does not need it."""
    loss: float
    """Logits of a chunk, the gathered head and its gradient. Layers do not need it."""
    code: float

    @property
    def peak(self) -> float:
        """When the loss is computed, or when all gradients are there: the larger of both."""
        state = self.parameters + self.optimizer + self.code + self.activations
        return state + max(self.loss, self.gradients + self.layer)

    @property
    def state(self) -> float:
        """Parameters, gradients and optimizer, which no remat policy and no batch changes."""
        return self.parameters + self.gradients + self.optimizer

    def by_kind(self) -> dict[str, float]:
        """Bytes of each kind."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True)
class Shares:
    """How a model is split."""

    weights: int
    """Devices that split stored parameters: fsdp."""
    heads: int
    """Devices that split heads, MLP and vocabulary: tensor."""
    length: int
    """Devices that split rows along their length: sequence."""
    schedule: Schedule = NO_PIPELINE
    """Of the pipeline's stages."""
    buffer: float = 1.0
    """What the experts of a layer compute, as a multiple of what they would for the device's own
    tokens: more where devices split them."""


def analytic_memory(
    model: ModelConfig,
    state: StateBytes,
    kept: float,
    whole: float,
    shares: Shares,
    *,
    rows: float,
    length: int,
    accumulate: int,
    width: int,
    on_cpu: bool,
) -> Memory:
    """Memory of a device.

    Args:
      model: a resolved config.
      state: bytes of the train state.
      kept: bytes that a row keeps for the backward pass.
      whole: the same if nothing is recomputed.
      shares: how the model is split.
      rows: of a microbatch, on this device.
      length: tokens of a row.
      accumulate: microbatches of a step.
      width: bytes of a number of the compute dtype.
      on_cpu: whether weights are used where they are, and programs are small.
    """
    layers = model.num_encoder_layers + model.num_decoder_layers
    gathered, schedule = shares.weights > 1, shares.schedule
    whole *= shares.buffer
    sparse = sum(each.is_sparse for each in layer_types(model, model.num_decoder_layers))
    numbers = state.gathered.layers / layers + state.gathered.experts / max(sparse, 1)
    blocks = numbers * schedule.stages * width
    passing = rows * schedule.stages / schedule.microbatches
    layer = WORKING * passing * whole / layers + (2 * blocks if gathered else 0.0)
    vocabulary = -(-model.vocab_size // shares.heads)
    tokens = rows * length / shares.length
    chunk = min(tokens, max(CHUNK_TOKENS, CHUNK_BYTES // (4 * vocabulary)))
    head = vocabulary * model.d_model
    loss = chunk * vocabulary * (4 + 4 + width) + head * 4 + (head * width if gathered else 0.0)
    passes = 1.0 if accumulate == 1 else 2.0
    if schedule.stages > 1:  # that of a group of layers, before it is added
        passes += 1 / schedule.rounds
    return Memory(
        parameters=state.parameters,
        gradients=state.trained * passes,
        optimizer=state.optimizer,
        activations=rows * kept * (1 + schedule.waiting),
        layer=layer,
        loss=loss,
        code=0.0 if on_cpu else CODE,
    )


def with_copies(memory: Memory, copies: int) -> Memory:
    """With further copies of the state, as replay needs one."""
    more = copies * memory.parameters
    return replace(
        memory,
        parameters=memory.parameters + more,
        optimizer=memory.optimizer * (1 + copies),
    )
