"""Adapters in PEFT's format, beside the parameters of the run that they were made for."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from llmjax.convert.families import family_for
from llmjax.convert.folders import becoming
from llmjax.convert.hf.mapping import Match, host
from llmjax.convert.hf.names import canonical
from llmjax.convert.hf.safetensors import TensorFiles, read_header
from llmjax.convert.importing import write_run
from llmjax.convert.peft.adapters import Module, adapted_leaves, modules_of, read_layout
from llmjax.convert.peft.base import is_untouched
from llmjax.convert.peft.settings import MERGE, check_targeted, read_settings, scale_of
from llmjax.convert.peft.writing import PREFIX, WEIGHTS
from llmjax.convert.stored import HEADS, stored_params
from llmjax.convert.tensors import FLOATS, check_range
from llmjax.convert.trees import flatten, unflatten
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.model.lora import LoraConfig, Target
from llmjax.model.model import Model
from llmjax.run.folder import Run
from llmjax.run.origin import Origin, read_origin

TENSOR = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")


@dataclass(frozen=True)
class Pair:
    """The adapter of one module: A [rank, inputs], B [outputs, rank], and what their product is
    multiplied with."""

    first: np.ndarray
    second: np.ndarray
    scale: float


def import_adapter(
    source: str | Path, run: str | Path, base: str | Path, *, dtype: str | None = None
) -> Path:
    """Makes a run folder of a base run's model with the adapters of a PEFT folder.

    Args:
      source: has adapter_config.json and adapter_model.safetensors.
      run: the folder to make.
      base: the run of the model that the adapters were made for.
      dtype: to store adapters in; None: as they come. The base's parameters stay as they are.

    Returns:
      The run folder.

    Raises:
      UserError: a folder cannot be read, or does not suit the other, or holds what llmjax does not
        have, or `run` exists or cannot be written.
    """
    folder, opened, target = Path(source), Run.open(base), Path(run)
    settings = read_settings(folder)
    tokenizer = load_tokenizer(opened.tokenizer)
    shape = resolve(opened.config().model, tokenizer.vocab_size)
    if shape.lora is not None:
        raise UserError(opened.folder, "has adapters already", "name the run that they began with")
    origin = read_origin(opened.folder) or Origin()
    if not is_untouched(opened):
        origin = replace(origin, source="")
    match = Match(family_for(shape, origin.model_type or None).table, Model(shape))
    pairs = read_pairs(folder, settings, match)
    lora = lora_of(pairs, modules_of(match))
    with becoming(target) as place:
        params = stored_params(opened, shape, None)
        params.pop(HEADS, None)
        flat = dict(flatten(params)) | adapters(pairs, replace(shape, lora=lora), match, dtype)
        before = opened.config()
        model = replace(before.model, lora=lora)
        config = replace(before, run_dir=str(target), model=model, tasks=(), init_from=None)
        write_run(place, config, unflatten(flat), tokenizer, origin)
    return target


def read_pairs(folder: Path, settings: Mapping[str, Any], match: Match) -> dict[str, Pair]:
    """The adapter of each module, by its name in the family's table.

    Raises:
      UserError: a tensor has no place in the model, is of another shape, or has no other half.
    """
    files, modules = open_files(folder), modules_of(match)
    halves: dict[str, dict[str, np.ndarray]] = {}
    called: dict[str, str] = {}
    for name in files.names():
        found = TENSOR.fullmatch(name)
        module = found and _module(found[1], match, modules)
        if not found or module is None:
            raise _no_place(name, settings)
        called[module] = found[1].removeprefix(PREFIX)
        check_targeted(settings, called[module])
        halves.setdefault(module, {})[found[2]] = files.read(name)
    pairs = {}
    for name, half in halves.items():
        if half.keys() != {"A", "B"}:
            raise UserError(f"adapter of {name}", "lacks one of its two tensors", "copy it again")
        first, second = half["A"], half["B"]
        wanted = (modules[name].inputs(match.sizes), modules[name].outputs(match.sizes))
        shapes = (first.shape[:1] + wanted[:1], wanted[1:] + first.shape[:1])
        if (first.shape, second.shape) != shapes:
            there = f"is {list(first.shape)} and {list(second.shape)}"
            raise UserError(
                f"adapter of {name}", f"{there}, for a module {wanted[0]} -> {wanted[1]}"
            )
        scale = scale_of(settings, called[name], first.shape[0])
        pairs[name] = Pair(first, second, scale)
    if not pairs:
        raise UserError(folder, "holds no adapter")
    return pairs


def _no_place(name: str, settings: Mapping[str, Any]) -> UserError:
    """The error for a tensor that is no half of an adapter of this model."""
    saved = settings.get("modules_to_save")
    if isinstance(saved, list) and any(f".{module}." in f".{name}" for module in saved):
        reason = "is of a whole module that was trained too (modules_to_save)"
    else:
        reason = "is no adapter of a projection of this model"
    return UserError(f"tensor {name}", reason, MERGE)


def open_files(folder: Path) -> TensorFiles:
    """The adapter's tensors.

    Raises:
      UserError: there are none, or the file is damaged.
    """
    if not (folder / WEIGHTS).is_file():
        raise UserError(folder, f"has no {WEIGHTS}", "save the adapter as safetensors")
    return TensorFiles(read_header(folder / WEIGHTS))


def lora_of(pairs: Mapping[str, Pair], modules: Mapping[str, Module]) -> LoraConfig:
    """The config of a model with all these adapters: its targets, the largest rank, one scale."""
    targets = {_target(part.leaf) for name in pairs for part in modules[name].parts}
    order: tuple[Target, ...] = ("query", "key", "value", "out", "gate", "up", "down")
    rank = max(len(pair.first) for pair in pairs.values())
    scale = next(iter(pairs.values())).scale
    return LoraConfig(rank, scale * rank, tuple(one for one in order if one in targets))


def adapters(
    pairs: Mapping[str, Pair], shape: ModelConfig, match: Match, dtype: str | None
) -> dict[str, jax.Array]:
    """lora_a and lora_b of every dense layer that has them, by path; 0 where PEFT has none."""
    assert shape.lora is not None
    modules = modules_of(match)
    flat = dict(flatten(Model(shape).abstract_params()))
    kept = np.dtype(FLOATS[dtype]) if dtype else _only({p.first.dtype for p in pairs.values()})
    found = {
        f"{path}.{which}": np.zeros(flat[f"{path}.{which}"].shape, kept)
        for path in adapted_leaves(shape)
        for which in ("lora_a", "lora_b")
    }
    for name, pair in pairs.items():
        second = pair.second
        if pair.scale != shape.lora.scale:
            second = second.astype(np.float32) * np.float32(pair.scale / shape.lora.scale)
        for part in modules[name].parts:
            a = read_layout(part.first, match.sizes, pair.first)
            b = read_layout(part.second, match.sizes, second)
            rank = a.shape[-1]
            found[f"{part.leaf}.lora_a"][part.layer, ..., :rank] = a
            found[f"{part.leaf}.lora_b"][part.layer, :rank] = b
    for path, array in found.items():
        check_range(path, array, np.dtype(np.float32))
    return {path: jax.device_put(array, host()) for path, array in found.items()}


def _module(name: str, match: Match, modules: Mapping[str, Module]) -> str | None:
    """The table's name of a module that PEFT names."""
    known = {f"{module}.weight" for module in modules}
    for bare in (name.removeprefix(PREFIX), name.removeprefix(f"{PREFIX}transformer.")):
        found = canonical(match.table, f"{bare}.weight", known).removesuffix(".weight")
        if found in modules:
            return found
    return None


def _target(leaf: str) -> Target:
    target: Target = leaf.rpartition(".")[2]  # type: ignore[assignment]  # as `LoraConfig` has them
    return target


def _only(dtypes: Iterable[np.dtype]) -> np.dtype:
    """The one dtype; float32 where there are several."""
    first, *others = dtypes
    return np.dtype(np.float32) if others or first not in FLOATS.values() else first
