"""Initial parameters: random, or those of the run named by `init_from`."""

import shlex
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.compute import Dtype
from llmjax.model.lora import merged
from llmjax.optimizers.param_kinds import ParamKind, param_kind
from llmjax.optimizers.parametrization import parameter_scales, scaled
from llmjax.run.checkpoint.checkpoints import save_params
from llmjax.run.checkpoint.reading import restore_params, stored_leaves, wait_for_all
from llmjax.run.checkpoint.remote import save_remote_params
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.run.origin import read_origin, write_origin
from llmjax.run.parameters import read_parameters, resolve_step, run_network
from llmjax.run.remote.run import RemoteRun
from llmjax.state import Tree, join, split
from llmjax.storage.stores.path import is_store, location
from llmjax.storage.writing import new_folder_mode
from llmjax.tasks.heads import Network
from llmjax.training.upcycling import check_upcycling, upcycled


def resolve_init_from(config: Config) -> Config:
    """Replaces the config's model and tokenizer by those of the `init_from` run.

    Raises:
      UserError: there is no such run, or the config's experts do not fit its layers.
    """
    if config.init_from is None:
        return config
    stored = _stored_config(config.run_dir)
    # A run that resumes no longer needs the one it started from.
    resumes = stored is not None and stored.init_from == config.init_from
    if not resumes and not (is_store(config.init_from) or Path(config.init_from).exists()):
        fix = f"llmjax import MODEL {shlex.quote(config.init_from)} makes it, and llmjax models "
        fix += "lists models; or name another run with --init-from"
        raise UserError(config.init_from, "no such run folder to start from", fix)
    base = stored if stored and resumes else Run.open(config.init_from).config()
    pooler, moe = config.model.pooler or base.model.pooler, config.model.moe or base.model.moe
    model = replace(base.model, lora=config.model.lora, pooler=pooler, moe=moe)
    if not resumes and config.model.moe is not None and moe != base.model.moe:
        check_upcycling(config.init_from, base.model, model)
    return replace(config, model=model, tokenizer=base.tokenizer)


def _stored_config(run_dir: str) -> Config | None:
    """The config of the run there; None if there is none yet."""
    folder = location(run_dir)
    if not (folder / "config.json").is_file():
        return None
    return (Run(folder) if isinstance(folder, Path) else Run.open(run_dir)).config()


def take_tokenizer(config: Config, run: Run) -> None:
    """Copies the tokenizer and origin.json of the `init_from` run, unless already done.

    Raises:
      UserError: they cannot be read or written.
    """
    if config.init_from is None or run.tokenizer.is_dir():
        return
    base = Run.open(config.init_from)
    source, origin = base.tokenizer, read_origin(base.folder)
    load_tokenizer(source)
    unfinished = run.folder / ".tokenizer"
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(source, unfinished, copy_function=shutil.copyfile)
        for path in (unfinished, *unfinished.rglob("*/")):
            path.chmod(new_folder_mode())  # not the mode of the base run's folder
        if origin is not None:
            write_origin(run.folder, origin)
        unfinished.rename(run.tokenizer)
    except OSError as error:
        raise UserError(run.tokenizer, f"cannot be written: {error.strerror or error}") from error


def initial_params(config: Config, network: Network, mesh: Mesh) -> Tree:
    """The parameters of step 0, on the devices of `mesh`. Those that the `init_from` run lacks
    (heads, adapters, a pooler) are initialized at random.

    Raises:
      UserError: a parameter does not divide over the mesh; or the `init_from` run is missing,
        damaged, or of another shape.
    """
    key = jax.random.key(config.seed)
    with jax.set_mesh(mesh):
        if config.init_from is None:
            return jax.jit(partial(_random, config, network))(key)
        base = Run.open(config.init_from)
        base_params, abstract = _base_params(base), network.abstract_params()
        if network.model.config.moe is not None and base.config().model.moe is None:
            return _upcycled(config, base_params, network)
        is_shared = _shared_leaves(abstract, base_params)
        new_params = jax.jit(lambda key: split(network.init(key), is_shared)[1])(key)
        return join(split(base_params, _shared_leaves(base_params, abstract))[0], new_params)


def _random(config: Config, network: Network, key: jax.Array) -> Tree:
    """Random parameters, in the parametrization."""
    params, axes = network.init(key), network.logical_axes()
    scales = parameter_scales(config.parametrization, network.model.config, config.optimizer, axes)
    if scales is None:
        return params
    return scaled(params, {path: scale.init for path, scale in scales.items()})


def _upcycled(config: Config, base_params: Tree, network: Network) -> Tree:
    """As `initial_params`, of a sparse model that starts from a dense run."""
    sparse, noise = network.model.config, config.upcycling.noise
    configs = replace(sparse, moe=None), sparse
    shardings = jax.tree.map(lambda leaf: leaf.sharding, network.abstract_params())
    init_key, noise_key = jax.random.split(jax.random.key(config.seed))

    def begin(dense: Tree) -> Tree:
        run = partial(upcycled, configs=configs, noise=noise)
        whole = jax.sharding.auto_axes(run, out_sharding=shardings)
        result: Tree = whole(dense, network.init(init_key), noise_key)
        return result

    return jax.jit(begin)(base_params)


def _base_params(base: Run) -> Tree:
    """The parameters of a run, adapters merged, without the heads of its tasks."""
    config, tokenizer = base.config(), load_tokenizer(base.tokenizer)
    shape = resolve(config.model, tokenizer.vocab_size)
    abstract = run_network(base, config, tokenizer, shape).abstract_params()
    params = read_parameters(base, resolve_step(base, config, None), abstract)
    params.pop("heads", None)
    if shape.lora is None:
        return params
    return jax.jit(merged, static_argnums=1)(params, shape.lora)


def _shared_leaves(tree: Tree, reference: Tree) -> Tree:
    """A mask of the leaves of `tree` that `reference` has too."""
    return {
        name: _shared_leaves(value, reference.get(name, {}))
        if isinstance(value, dict)
        else name in reference
        for name, value in tree.items()
    }


NARROW = (ParamKind.MATRIX, ParamKind.EMBEDDING)
"""Kinds of frozen parameters that are stored in the compute dtype."""


def freeze(run: Run, dtype: Dtype, network: Network, frozen: Tree) -> Tree:
    """Writes the frozen parameters, matrices in the compute dtype; returns them as stored.

    Raises:
      UserError: they cannot be written or read.
    """
    axes = network.logical_axes()

    def stored(part: Tree, names: Tree) -> Tree:
        return {
            name: stored(value, names[name])
            if isinstance(value, dict)
            else value.astype(dtype if param_kind(names[name]) in NARROW else np.float32)
            for name, value in part.items()
        }

    result = jax.jit(lambda part: stored(part, axes))(frozen)
    if jax.process_index() == 0 or isinstance(run, RemoteRun):  # left by an interrupted start
        shutil.rmtree(run.frozen, ignore_errors=True)
    wait_for_all("no frozen parameters")
    if isinstance(run, RemoteRun):
        save_remote_params(run, run.frozen, result)
    else:
        save_params(run.frozen, result)
    wait_for_all("frozen parameters written")
    return result


def frozen_params(run: Run, abstract: Tree, mesh: Mesh) -> Tree:
    """Reads the frozen parameters onto `mesh`, in the dtypes they are stored in.

    Raises:
      UserError: they are missing or damaged.
    """
    leaves = stored_leaves(run.frozen, 0)

    def as_stored(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        dtype = leaves[name].dtype if name in leaves else leaf.dtype
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)

    with jax.set_mesh(mesh):
        abstract = jax.tree_util.tree_map_with_path(as_stored, abstract)
        params, _ = restore_params(run.frozen, abstract, 0)
    return params
