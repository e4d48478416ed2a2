"""The training step of a config, lowered for devices that need not be there."""

import jax
import jax.numpy as jnp

from llmjax.data.batch import Batch
from llmjax.losses.loss import Loss
from llmjax.losses.token_loss import token_loss
from llmjax.model.checks import resolve
from llmjax.model.model import Model
from llmjax.optimizers.optimizer import Optimizer, make_optimizer
from llmjax.optimizers.spikes import skip_spikes
from llmjax.parallel.mesh import named_sharding
from llmjax.run.config.schema import Config
from llmjax.state import Tree, abstract_state
from llmjax.step import make_train_step


def model_and_optimizer(config: Config, vocabulary: int) -> tuple[Model, Optimizer]:
    """The model and the optimizer of a config whose tokenizer has a vocabulary of this size."""
    model = Model(resolve(config.model, vocabulary), config.compute)
    optimizer = make_optimizer(
        config.optimizer,
        config.steps,
        model.logical_axes(),
        bias_update_rate=model.config.bias_update_rate,
    )
    return model, skip_spikes(optimizer, config.spikes)


def lowered_step(config: Config, mesh: jax.sharding.Mesh, vocabulary: int) -> jax.stages.Lowered:
    """Lowers the training step of a config on tokens.

    Args:
      config: of the run.
      mesh: of the topology's devices.
      vocabulary: the tokenizer's size.

    Raises:
      UserError: a parameter does not divide over the mesh.
    """
    model, optimizer = model_and_optimizer(config, vocabulary)

    def loss(params: Tree, batch: Batch, key: jax.Array | None) -> Loss:
        key = key if config.compute.dropout else None
        weights = {
            "z_loss": config.loss.z_loss,
            "multi_token_weight": config.loss.multi_token_weight,
        }
        return token_loss(model, params, batch, dropout_key=key, **weights)

    step = make_train_step(
        loss,
        optimizer,
        seed=config.seed,
        clip_norm=config.optimizer.clip_norm,
        accumulate=config.optimizer.accumulate,
        prepare=model.quantized_once,
    )
    stage = config.data.largest_stage
    sharding = named_sharding(mesh, "batch", "length")
    names = ["inputs", "targets", "positions", "segments"]
    if model.config.is_encoder_decoder:
        names += ["encoder_tokens", "encoder_positions", "encoder_segments"]
    dtypes = dict.fromkeys(names, jnp.int32) | {"weights": jnp.float32}
    batch = {
        name: jax.ShapeDtypeStruct((stage.batch_size, stage.length), dtype, sharding=sharding)
        for name, dtype in dtypes.items()
    }
    with jax.set_mesh(mesh):
        return jax.jit(step, donate_argnums=0).lower(
            abstract_state(model, optimizer, mesh), batch, None
        )
