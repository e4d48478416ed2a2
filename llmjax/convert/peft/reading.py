"""Adapters in PEFT's format, beside the parameters of the run that they were made for."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from llmjax.convert.families.registry import family_for
from llmjax.convert.folders import new_folder
from llmjax.convert.hf.mapping import BoundTable
from llmjax.convert.hf.names import table_name
from llmjax.convert.hf.safetensors import TensorFiles, read_header, read_object
from llmjax.convert.importing import write_run
from llmjax.convert.params import HEADS, flatten, host, stored_params, unflatten
from llmjax.convert.peft.adapters import Module, adapted_leaves, modules_of, read_layout
from llmjax.convert.peft.writing import PREFIX, WEIGHTS, is_untouched
from llmjax.convert.sources import ADAPTER
from llmjax.convert.tensors import FLOATS, check_overflow
from llmjax.data.tokenizers.tokenizer import load_tokenizer
from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.model.lora_config import LoraConfig, Target
from llmjax.model.model import Model
from llmjax.run.folder import Run
from llmjax.run.origin import Origin, read_origin

PLAIN = frozenset({"gaussian", "eva", "orthogonal", "mica"})
"""Initialisations, besides true and false, that leave the base model as it was."""
SAID_OTHERWISE = frozenset(
    """auto_mapping base_model_name_or_path revision inference_mode task_type peft_type peft_version
    r lora_alpha lora_dropout fan_in_fan_out use_rslora rank_pattern alpha_pattern modules_to_save
    target_modules exclude_modules layers_to_transform layers_pattern init_lora_weights
    loftq_config eva_config corda_config lora_ga_config megatron_core runtime_config
    qalora_group_size ensure_weight_tying""".split()
)
"""Fields that the tensors say too, that are read, or that only tell how an adapter is trained. All
others must be off."""
MOST_RANK = 4096
"""Of an adapter: arrays of the largest one are made for all layers."""
LONGEST_PATTERN = 300
"""Characters of a regular expression of a file."""
EXPLOSIVE = re.compile(r"\)[*+{]|\\[1-9]|\(\?[^:]")
"""What makes matching a regular expression take forever: repeated groups, references."""
MERGE = "merge it into its model with PEFT, and import that"


def read_settings(folder: Path) -> dict[str, Any]:
    """adapter_config.json, of an adapter that can be honoured.

    Raises:
      UserError: there is none, or it says more than A and B do, or its adapter belongs to a base
        model that PEFT changed when it was begun.
    """
    path = folder / ADAPTER
    if not path.is_file():
        raise UserError(folder, f"has no {ADAPTER}", "give the folder that PEFT saved")
    found = read_object(path)
    if found.get("peft_type") != "LORA":
        raise UserError(path, f"is of kind {found.get('peft_type')!r}", "LORA alone is supported")
    for name, value in found.items():
        if name not in SAID_OTHERWISE and value and value != "none":
            shown = repr(value)[:60]
            raise UserError(path, f"{name[:60]} = {shown} cannot be honoured", "merge it with PEFT")
    _check_beginning(path, found.get("init_lora_weights", True))
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(found.get(name) or {}, dict):
            raise UserError(path, f"{name} is no object", "restore the file")
    return found


def _check_beginning(path: Path, how: Any) -> None:
    """Refuses an initialisation that took a part of the base model's weights into the adapter."""
    if how is None or isinstance(how, bool) or (isinstance(how, str) and how.lower() in PLAIN):
        return
    raise UserError(
        path,
        f"init_lora_weights is {repr(how)[:60]}: the adapter's base is not the published model, "
        "but what its beginning left of it",
        "save it with save_pretrained(..., path_initial_model_for_weight_conversion=FOLDER of the "
        "adapter as it began), or merge it with PEFT",
    )


def check_targeted(settings: Mapping[str, Any], name: str) -> None:
    """Refuses the adapter of a module that PEFT would not put one beside.

    Args:
      settings: of `read_settings`.
      name: of the module, in the model that PEFT adapts.

    Raises:
      UserError: the settings do not name the module, or cannot be read.
    """
    if _is_meant(settings.get("exclude_modules"), name):
        raise UserError(f"adapter of {name}", f"{ADAPTER} has it in exclude_modules", MERGE)
    targets = settings.get("target_modules")
    if targets not in (None, "all-linear") and not _is_meant(targets, name):
        raise UserError(f"adapter of {name}", f"{ADAPTER} has no such target_modules", MERGE)
    layers = settings.get("layers_to_transform")
    if layers is None or layers == [] or isinstance(targets, str):
        return
    patterns = settings.get("layers_pattern") or r"[^.]*"
    patterns = [patterns] if isinstance(patterns, str) else patterns
    numbers = (_matches(rf"(?:^|.*?\.){one}\.(?P<idx>\d+)\.", name, one) for one in patterns)
    layer = next((int(found["idx"]) for found in numbers if found), None)
    if layer not in (layers if isinstance(layers, list) else [layers]):
        raise UserError(f"adapter of {name}", f"{ADAPTER} has no such layers_to_transform", MERGE)


def _is_meant(words: Any, name: str) -> bool:
    """Whether a list of ends of names, or a regular expression, means a module."""
    if not words:
        return False
    if isinstance(words, str):
        return bool(_matches(rf"(?:{words})\Z", name, words))
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(ADAPTER, "its modules are no list of names", "restore the file")
    return any(name == word or name.endswith(f".{word}") for word in words)


def _matches(pattern: str, name: str, said: object) -> re.BoundTable[str] | None:
    """A match of a file's regular expression, which is bounded first."""
    if not isinstance(said, str) or len(said) > LONGEST_PATTERN or EXPLOSIVE.search(said):
        raise UserError(
            ADAPTER, f"its pattern {repr(said)[:60]} is too complex", "write out the modules' names"
        )
    try:
        return re.match(pattern, name)
    except re.error as error:
        reason = f"its pattern {repr(said)[:60]} is no regular expression: {error}"
        raise UserError(ADAPTER, reason, "restore the file") from error


def scale_of(settings: Mapping[str, Any], name: str, rank: int) -> float:
    """alpha / rank of a module (/ sqrt(rank) in rank-stabilised ones, arXiv:2312.03732).

    Args:
      settings: of `read_settings`.
      name: of the module, in the model that PEFT adapts.
      rank: of its tensors.

    Raises:
      UserError: the settings state another rank, or no number.
    """
    stated = _of_module(settings, "rank_pattern", name, settings.get("r", 8))
    if stated != rank or not 1 <= rank <= MOST_RANK:
        raise UserError(
            f"adapter of {name}",
            f"is of rank {rank}, but {ADAPTER} has {repr(stated)[:20]} (at most {MOST_RANK})",
            "restore the file",
        )
    alpha = _of_module(settings, "alpha_pattern", name, settings.get("lora_alpha", 8))
    if type(alpha) not in (int, float) or not 0 < abs(alpha) < 2**31:
        raise UserError(ADAPTER, f"lora_alpha of {name} is {repr(alpha)[:20]}", "restore the file")
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _of_module(settings: Mapping[str, Any], field: str, name: str, default: Any) -> Any:
    """What a pattern says of a module: the first of its expressions that matches counts."""
    for key, value in (settings.get(field) or {}).items():
        if _matches(rf"(.*\.)?({key})$", name, key):
            return value
    return default


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
    match = BoundTable(family_for(shape, origin.model_type or None).table, Model(shape))
    pairs = read_pairs(folder, settings, match)
    lora = lora_of(pairs, modules_of(match))
    with new_folder(target) as place:
        params = stored_params(opened, shape, None)
        params.pop(HEADS, None)
        flat = dict(flatten(params)) | adapters(pairs, replace(shape, lora=lora), match, dtype)
        before = opened.config()
        model = replace(before.model, lora=lora)
        config = replace(before, run_dir=str(target), model=model, tasks=(), init_from=None)
        write_run(place, config, unflatten(flat), tokenizer, origin)
    return target


def read_pairs(folder: Path, settings: Mapping[str, Any], match: BoundTable) -> dict[str, Pair]:
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
    pairs: Mapping[str, Pair], shape: ModelConfig, match: BoundTable, dtype: str | None
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
        check_overflow(path, array, np.dtype(np.float32))
    return {path: jax.device_put(array, host()) for path, array in found.items()}


def _module(name: str, match: BoundTable, modules: Mapping[str, Module]) -> str | None:
    """The table's name of a module that PEFT names."""
    known = {f"{module}.weight" for module in modules}
    for bare in (name.removeprefix(PREFIX), name.removeprefix(f"{PREFIX}transformer.")):
        found = table_name(match.table, f"{bare}.weight", known).removesuffix(".weight")
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
