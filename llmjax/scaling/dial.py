"""One dial: a config at another depth, with all that should follow from it."""

import math
from dataclasses import dataclass, replace

from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.model.flops import flops_per_token
from llmjax.model.model import Model
from llmjax.optimizers.parametrization import StandardParametrization
from llmjax.run.config.schema import Config
from llmjax.run.planning.plan import vocabulary_of

BATCH_EXPONENT = 0.383
"""The best batch size grows as the training tokens to this power (arXiv:2505.13738, section 3)."""
WIDTH_MULTIPLE = 64
"""Of the MLP's inner width, where it is given."""


@dataclass(frozen=True)
class Size:
    """What scaling laws count in a model."""

    parameters: int
    """All."""
    without_embeddings: int
    """All but tables of tokens and positions, and the LM head's."""
    flops_per_token: float
    """Of training; see `model.flops`."""


def size_of(config: Config) -> Size:
    """Counts a config's model.

    Raises:
      UserError: the size of its vocabulary is not known.
    """
    model = resolve(config.model, vocabulary_of(config))
    total = Model(model).num_params()
    tables = model.vocab_size * model.d_model * (1 if model.tie_embeddings else 2)
    if model.positions == "learned":
        tables += (model.max_length + model.first_position) * model.d_model
    return Size(total, total - tables, flops_per_token(model, config.data.length))


def at_depth(config: Config, depth: int) -> Config:
    """The config at another depth; at its own it stays as it is.

    The rules, of which `config` sets all constants:

    * Width grows with the depth. Heads keep their width, so their number grows; the MLP grows with
      the width.
    * Tokens grow with the parameters.
    * The batch grows as tokens^0.383 (arXiv:2505.13738), in steps that keep it divisible by half
      of the powers of two that divide the config's, since devices share it; the number of steps
      follows. Warmup, evaluations and checkpoints keep their share of the run.
    * The learning rate grows with the root of the batch (arXiv:2205.10287). In the standard
      parametrization it falls with the root of the width; mup and completep do more.
    * Weight decay keeps learning rate x decay x steps, the number of times that weights are
      renewed in a run (arXiv:2405.13698).

    Args:
      config: a decoder's or an encoder's; its length of the run is given in steps.
      depth: layers.

    Raises:
      UserError: the rules do not cover the model, or the run is given in epochs.
    """
    base = _depth(config.model)
    if depth == base:
        return config
    if depth < 1:
        raise UserError(f"--depth {depth}", "must be at least 1")
    _check(config)
    bigger = replace(config, model=_model(config.model, depth))
    return with_tokens(bigger, _tokens(config) * _parameters(bigger) / _parameters(config), config)


def with_tokens(config: Config, tokens: float, base: Config) -> Config:
    """Sets batch, steps, learning rate and weight decay for so many training tokens.

    Args:
      config: its model is set, and all else as in `base`.
      tokens: to train on.
      base: what the rules of `at_depth` are relative to.
    """
    wanted = base.data.batch_size * (tokens / _tokens(base)) ** BATCH_EXPONENT
    unit = _unit(base)
    rows = max(1, round(wanted / unit)) * unit
    batch = rows / base.data.batch_size
    steps = max(2, round(tokens / (rows * config.data.length)))
    width = config.model.d_model / base.model.d_model
    standard = isinstance(config.parametrization, StandardParametrization)
    rate = batch**0.5 * (width**-0.5 if standard else 1.0)
    share = steps / base.steps
    optimizer, schedule = base.optimizer, base.optimizer.schedule
    return replace(
        config,
        steps=steps,
        data=replace(config.data, batch_size=rows),
        optimizer=replace(
            optimizer,
            learning_rate=_rounded(optimizer.learning_rate * rate),
            weight_decay=_rounded(optimizer.weight_decay / (rate * share)),
            schedule=replace(
                schedule, warmup_steps=min(round(schedule.warmup_steps * share), steps - 1)
            ),
        ),
        evaluation=replace(config.evaluation, every=_scaled(base.evaluation.every, share)),
        checkpoint=replace(config.checkpoint, every=_scaled(base.checkpoint.every, share)),
        samples=replace(config.samples, every=_scaled(base.samples.every, share)),
    )


def _unit(base: Config) -> int:
    """What batches are a multiple of, so that as many devices and microbatches can share them."""
    batch, parts = base.data.batch_size, base.optimizer.accumulate
    half = max(1, (batch & -batch) // 2)
    return math.lcm(half, parts)


def _rounded(value: float) -> float:
    """To four digits, so that configs are readable."""
    return float(f"{value:.4g}")


def _scaled(every: int, share: float) -> int:
    """An interval in steps, at least 1; 0 stays 0."""
    return max(1, round(every * share)) if every else 0


def _check(config: Config) -> None:
    model, problem = config.model, None
    if config.epochs is not None or config.tasks or config.init_from or config.data.stages:
        problem = "sets the size of a model that is pre-trained for a number of steps, in one stage"
    elif model.is_encoder_decoder:
        problem = "is for decoders and encoders, and this model has both"
    elif model.layer_d_ff or model.mla or model.linear or model.moe:
        problem = "is for layers that are all alike, with attention and MLP"
    if problem:
        raise UserError("--depth", problem, "set the fields of model one by one")


def _model(model: ModelConfig, depth: int) -> ModelConfig:
    base = _depth(model)
    group = model.num_heads // model.kv_heads
    heads = max(1, round(model.num_heads * depth / base / group)) * group
    width = model.d_model * heads // model.num_heads
    ratio = width / model.d_model
    d_ff = model.d_ff
    if d_ff is not None:
        multiple = WIDTH_MULTIPLE if d_ff >= WIDTH_MULTIPLE else 1
        d_ff = max(1, round(d_ff * ratio / multiple)) * multiple
    return replace(
        model,
        d_model=width,
        num_heads=heads,
        num_kv_heads=None if model.num_kv_heads is None else heads // group,
        d_ff=d_ff,
        num_encoder_layers=depth if model.num_encoder_layers else 0,
        num_decoder_layers=depth if model.num_decoder_layers else 0,
    )


def _depth(model: ModelConfig) -> int:
    return max(model.num_encoder_layers, model.num_decoder_layers)


def _tokens(config: Config) -> float:
    return float(config.steps * config.data.batch_size * config.data.length)


def _parameters(config: Config) -> int:
    return size_of(config).parameters
