"""Where a run begins: with parameters drawn at random, or with those of another run."""

import shutil
from dataclasses import replace
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
from llmjax.run.checkpoint.checkpoints import save_params
from llmjax.run.checkpoint.reading import restore_params, stored_leaves, wait_for_all
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.run.origin import read_origin, write_origin
from llmjax.run.parameters import read_parameters, resolve_step, run_network
from llmjax.state import Tree, join, split
from llmjax.storage.writing import new_folder_mode
from llmjax.tasks.heads import Network


def resolve_init_from(config: Config) -> Config:
    """The config with the model and the tokenizer of the run that it begins with.

    Raises:
      UserError: there is no such run.
    """
    if config.init_from is None:
        return config
    own = Run(Path(config.run_dir))
    # A run that goes on no longer needs the one that it began with.
    known = own.config_path.is_file() and own.config().init_from == config.init_from
    base = own.config() if known else Run.open(config.init_from).config()
    pooler = config.model.pooler or base.model.pooler
    model = replace(base.model, lora=config.model.lora, pooler=pooler)
    return replace(config, model=model, tokenizer=base.tokenizer)


def take_tokenizer(config: Config, run: Run) -> None:
    """Copies the tokenizer of the run that this one begins with, and its origin.json, once.

    Raises:
      UserError: it cannot be read or written.
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
            path.chmod(new_folder_mode())  # not that of the other run
        if origin is not None:
            write_origin(run.folder, origin)
        unfinished.rename(run.tokenizer)
    except OSError as error:
        raise UserError(run.tokenizer, f"cannot be written: {error.strerror or error}") from error


def first_params(config: Config, network: Network, mesh: Mesh) -> Tree:
    """The parameters of step 0, on the devices of `mesh`.

    Raises:
      UserError: a parameter does not divide over the mesh; or the run that this one begins with
        is missing, damaged, or of another shape.
    """
    key = jax.random.key(config.seed)
    with jax.set_mesh(mesh):
        if config.init_from is None:
            return jax.jit(network.init)(key)
        taken = _taken(Run.open(config.init_from))
        there = _has(network.abstract_params(), taken)
        drawn = jax.jit(lambda key: split(network.init(key), there)[1])(key)
        return join(split(taken, _has(taken, network.abstract_params()))[0], drawn)


def _taken(base: Run) -> Tree:
    """The parameters of a run, adapters merged, without the heads of its tasks."""
    config, tokenizer = base.config(), load_tokenizer(base.tokenizer)
    shape = resolve(config.model, tokenizer.vocab_size)
    theirs = run_network(base, config, tokenizer, shape)
    found = read_parameters(base, resolve_step(base, config, None), theirs.abstract_params())
    found.pop("heads", None)
    if shape.lora is None:
        return found
    return jax.jit(merged, static_argnums=1)(found, shape.lora)


def _has(tree: Tree, other: Tree) -> Tree:
    """The tree of bools that says of each leaf whether the other tree has it too."""
    return {
        name: _has(value, other.get(name, {})) if isinstance(value, dict) else name in other
        for name, value in tree.items()
    }


def freeze(run: Run, dtype: Dtype, network: Network, frozen: Tree) -> Tree:
    """Writes the frozen parameters, matrices in the compute dtype, and gives them back
    as they are read.

    Raises:
      UserError: they cannot be written or read.
    """
    axes = network.logical_axes()

    def stored(part: Tree, names: Tree) -> Tree:
        return {
            name: stored(value, names[name])
            if isinstance(value, dict)
            else value.astype(dtype if param_kind(names[name]) != ParamKind.VECTOR else np.float32)
            for name, value in part.items()
        }

    held = jax.jit(lambda part: stored(part, axes))(frozen)
    if jax.process_index() == 0:  # what a start that was interrupted left
        shutil.rmtree(run.frozen, ignore_errors=True)
    wait_for_all("no frozen parameters")
    save_params(run.frozen, held)
    wait_for_all("frozen parameters written")
    return held


def frozen_params(run: Run, abstract: Tree, mesh: Mesh) -> Tree:
    """What `freeze` wrote, onto `mesh`, in the dtypes that it is stored in.

    Raises:
      UserError: it is missing or damaged.
    """
    leaves = stored_leaves(run.frozen, 0)

    def wanted(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        dtype = leaves[name].dtype if name in leaves else leaf.dtype
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)

    with jax.set_mesh(mesh):
        found, _ = restore_params(run.frozen, jax.tree_util.tree_map_with_path(wanted, abstract), 0)
    return found
