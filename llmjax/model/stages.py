"""Pipeline parallelism of a stack: its layers in groups, which the stages hold in turn."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from llmjax.errors import UserError
from llmjax.model.attention.mask import Mask
from llmjax.model.aux_sums import Aux
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.layer_loop import Body, LayerLoop
from llmjax.model.layer_types import LayerType, layer_types
from llmjax.model.remat import group_policy, layer_policy
from llmjax.model.self_attention import BlockContext
from llmjax.parallel import mesh, pipeline
from llmjax.parallel.pipeline import NO_PIPELINE, Schedule, Slot


def num_stages() -> int:
    """The stages of the current mesh; 1: there is no pipeline."""
    return mesh.parts("layers")


def schedule_of(compute: ComputeConfig, stages: int, rows: int) -> Schedule:
    """How the rows of a stage's device, and of those that share them, pass through the stages.

    Args:
      compute: asks for a number of microbatches, of which a small batch has fewer.
      stages: of the mesh.
      rows: a multiple of the stages.
    """
    if stages == 1:
        return NO_PIPELINE
    most = min(compute.pipeline_microbatches or rows, rows) // stages
    parts = next(count for count in range(max(most, 1), 0, -1) if rows // stages % count == 0)
    return Schedule(stages, stages * parts, compute.pipeline_rounds)


def check_microbatches(compute: ComputeConfig, stages: int, rows: int) -> None:
    """Checks that a training batch is cut into as many microbatches as the config asks for.

    Args:
      compute: the config.
      stages: of the mesh.
      rows: of a part of a batch, of a stage's device and those that share them.

    Raises:
      UserError: it is not.
    """
    asked = compute.pipeline_microbatches
    if (
        stages > 1
        and asked is not None
        and schedule_of(compute, stages, rows).microbatches != asked
    ):
        reason = f"does not divide the {rows} rows that a device of each stage computes at a time"
        fix = f"choose a multiple of mesh.stage={stages} that divides them"
        raise UserError(f"compute.pipeline_microbatches {asked}", reason, fix)


def check_stages(config: ModelConfig, compute: ComputeConfig, stages: int) -> None:
    """Checks that a model's layers can be split over stages.

    Raises:
      UserError: they do not divide, are not alike in all groups, or there are two stacks.
    """
    if stages == 1:
        return
    name, rounds = f"mesh.stage={stages}", compute.pipeline_rounds
    if config.is_encoder_decoder:
        reason = "an encoder-decoder has two stacks, of which each would wait for the other"
        raise UserError(name, reason, "split it with mesh.fsdp or mesh.tensor")
    if config.multi_token:
        reason = "the layer of model.multi_token cannot be split over stages"
        raise UserError(name, reason, "turn one of them off")
    count = config.num_encoder_layers + config.num_decoder_layers
    if count % (stages * rounds):
        reason = f"do not divide over {name} x compute.pipeline_rounds={rounds}"
        raise UserError(f"{count} layers", reason, f"choose sizes whose product divides {count}")
    if (asked := compute.pipeline_microbatches) is not None and asked % stages:
        reason = f"is no multiple of {name}"
        raise UserError(f"compute.pipeline_microbatches {asked}", reason, "choose a multiple")
    types, size = layer_types(config, count), count // (stages * rounds)
    for number, layer in enumerate(types):
        if layer != types[number % size]:
            reason = (
                f"needs groups of {size} layers that are alike, and layer {number} differs from "
                f"layer {number % size} in {_difference(layer, types[number % size])}"
            )
            fix = "choose fewer stages or rounds, so that groups are repeats of the layer pattern"
            raise UserError(f"{name} x compute.pipeline_rounds={rounds}", reason, fix)


def _difference(a: LayerType, b: LayerType) -> str:
    pairs = zip(LayerType._fields, a, b, strict=True)
    return " and ".join(name for name, x, y in pairs if x != y)


def run_stages(
    body_of: Callable[[BlockContext], Body],
    context: BlockContext,
    compute: ComputeConfig,
    types: tuple[LayerType, ...],
    layers: Mapping[str, tuple[tuple[int, ...], Any]],
    x: jax.Array,
    keys: jax.Array | None,
) -> tuple[jax.Array, Aux]:
    """Passes microbatches through the layers of a stack, which `check_stages` has passed.

    Args:
      body_of: the layers of a context's rows.
      context: of all rows; its bias is the same for all of them.
      compute: how many microbatches and rounds.
      types: of the layers.
      layers: name of a group of equal shapes -> numbers of its layers, and stacked parameters.
      x: [B, L, D], split as the residual stream.
      keys: of each layer, for dropout; each microbatch has others, derived from them.

    Returns:
      [B, L, D], and the sums of all layers and microbatches.
    """
    stages = num_stages()
    schedule = schedule_of(compute, stages, x.shape[0] // (mesh.parts("batch") // stages))
    size = len(types) // (stages * schedule.rounds)
    numbers = {
        name: tuple(number for number in found if number < size)
        for name, (found, _) in layers.items()
    }
    rows = [
        None if each is None else mesh.reshard(each, "batch", context.sharding.length)
        for each in (context.positions, context.mask.key_segments, context.is_long)
    ]

    def group(
        params: Any, x: jax.Array, rows: Any, shared: tuple, slot: Slot
    ) -> tuple[jax.Array, Aux]:
        (positions, segments, is_long), (bias, keys) = rows, shared
        mask = Mask(segments, segments, None, context.mask.causal)
        here = replace(context, positions=positions, mask=mask, bias=bias, is_long=is_long)
        if keys is not None:
            of_group = jax.lax.dynamic_slice_in_dim(keys, slot.group * size, size)
            keys = jax.vmap(jax.random.fold_in, (0, None))(of_group, slot.microbatch)
        parts = {
            name: (part, None if keys is None else keys[np.array(numbers[name])])
            for name, part in params.items()
        }
        loop = LayerLoop(body_of(here), types[:size], numbers, layer_policy(compute))
        (x, _), aux = loop.run((x, None), parts)
        return x, aux

    params = {name: part for name, (_, part) in layers.items()}
    return pipeline.run(
        group, params, x, rows, (context.bias, keys), schedule, group_policy(compute)
    )
