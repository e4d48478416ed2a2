"""Import adapters in PEFT's format into a new run of their base model.

adapter_config.json is interpreted as by `PeftModel.from_pretrained` (peft.tuners:
`check_target_module_exists`, `get_pattern_key`, `LoraLayer.update_layer`).
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from llmjax.convert.families.registry import family_for
from llmjax.convert.hf.config import read_object
from llmjax.convert.hf.mapping import BoundTable
from llmjax.convert.hf.safetensors import TensorFiles, read_header
from llmjax.convert.importing import write_run
from llmjax.convert.params import HEADS, stored_params
from llmjax.convert.peft.adapters import (
    PREFIX,
    WEIGHTS,
    Module,
    adapted_layers,
    has_suffix,
    is_untouched,
    modules_of,
    read_layout,
)
from llmjax.convert.sources import ADAPTER, local_source
from llmjax.convert.tensors import FLOATS, check_overflow
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.model.lora import LoraConfig, Target
from llmjax.model.model import Model
from llmjax.model.trees import flatten, unflatten
from llmjax.parallel.devices import host_device
from llmjax.run.folder import Run
from llmjax.run.origin import Origin, read_origin
from llmjax.storage.stores.path import Location, location
from llmjax.storage.stores.transfer import new_folder

PLAIN = frozenset({"gaussian", "eva", "orthogonal", "mica"})
"""Values of init_lora_weights, besides true and false, that leave the base model unchanged."""
SUPPORTED_FIELDS = frozenset(
    """auto_mapping base_model_name_or_path revision inference_mode task_type peft_type peft_version
    r lora_alpha lora_dropout fan_in_fan_out use_rslora rank_pattern alpha_pattern modules_to_save
    target_modules exclude_modules layers_to_transform layers_pattern init_lora_weights
    loftq_config eva_config corda_config lora_ga_config megatron_core runtime_config
    qalora_group_size ensure_weight_tying""".split()
)
"""Fields that are read, implied by the tensors, or only affect training. All others must be off."""
MAX_RANK = 4096
"""The largest rank is allocated for all layers."""
MAX_PATTERN = 300
"""Characters of a regular expression in a file."""
EXPLOSIVE = re.compile(r"\)[*+{]|\\[1-9]|\(\?[^:]")
"""Constructs with exponential matching time: repeated groups and backreferences."""
MERGE = "merge it into its model with PEFT, and import that"
TENSOR = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")


@dataclass(frozen=True)
class Adapter:
    """A module's adapter: A [rank, inputs], B [outputs, rank] and the scale of their product."""

    a: np.ndarray
    b: np.ndarray
    scale: float


def import_adapter(
    source: str | Path, run: str | PathLike[str], base: str | Path, *, dtype: str | None = None
) -> Location:
    """Create a run with the model of a base run and the adapters of a PEFT folder.

    Args:
      source: has adapter_config.json and adapter_model.safetensors.
      run: the folder to create.
      base: the run of the adapters' base model.
      dtype: to store adapters in; None for their own dtype. The base's parameters are unchanged.

    Returns:
      The run folder.

    Raises:
      UserError: the adapters or the base cannot be read, do not match or are not supported; or
        `run` exists or cannot be written.
    """
    folder, opened, target = local_source(str(source)), Run.open(base), location(os.fspath(run))
    settings = read_settings(folder)
    tokenizer = load_tokenizer(opened.tokenizer)
    base_config = opened.config()
    shape = resolve(base_config.model, tokenizer.vocab_size)
    if shape.lora is not None:
        raise UserError(opened.folder, "already has adapters", "name the run without them")
    origin = read_origin(opened.folder) or Origin()
    if not is_untouched(opened):
        origin = replace(origin, source="")
    bound = BoundTable(family_for(shape, origin.model_type or None).table, Model(shape))
    adapters = read_adapters(folder, settings, bound)
    lora = lora_of(adapters, modules_of(bound))
    with new_folder(target) as unfinished:
        params = stored_params(opened, shape, None)
        params.pop(HEADS, None)
        arrays = lora_arrays(adapters, replace(shape, lora=lora), bound, dtype)
        params = unflatten(dict(flatten(params)) | arrays)
        model = replace(base_config.model, lora=lora)
        config = replace(base_config, run_dir=str(target), model=model, tasks=(), init_from=None)
        write_run(unfinished, config, params, tokenizer, origin)
    return target


def read_settings(folder: Path) -> dict[str, Any]:
    """Read adapter_config.json and check that the adapter is supported.

    Raises:
      UserError: there is none, it adds more than A and B, or its initialisation changed the base
        model.
    """
    path = folder / ADAPTER
    if not path.is_file():
        raise UserError(folder, f"has no {ADAPTER}", "give the folder that PEFT saved")
    settings = read_object(path)
    if settings.get("peft_type") != "LORA":
        raise UserError(path, f"is of type {settings.get('peft_type')!r}", "only LORA is supported")
    for name, value in settings.items():
        if name not in SUPPORTED_FIELDS and value and value != "none":
            reason = f"{name[:60]} = {repr(value)[:60]} is not supported"
            raise UserError(path, reason, "merge it with PEFT")
    initial = settings.get("init_lora_weights", True)
    plain = isinstance(initial, str) and initial.lower() in PLAIN
    if not (initial is None or isinstance(initial, bool) or plain):
        raise UserError(
            path,
            f"init_lora_weights is {repr(initial)[:60]}, which changes the base model: the adapter "
            "does not apply to the published one",
            "save it with save_pretrained(..., path_initial_model_for_weight_conversion=FOLDER of "
            "the initial adapter), or merge it with PEFT",
        )
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(settings.get(name) or {}, dict):
            raise UserError(path, f"{name} is not an object", "restore the file")
    return settings


def read_adapters(
    folder: Path, settings: Mapping[str, Any], bound: BoundTable
) -> dict[str, Adapter]:
    """Read the adapter of each module, by the module's name in the family's table.

    Raises:
      UserError: a tensor does not belong to the model, has the wrong shape, or lacks its
        counterpart.
    """
    if not (folder / WEIGHTS).is_file():
        raise UserError(folder, f"has no {WEIGHTS}", "save the adapter as safetensors")
    files, modules = TensorFiles(read_header(folder / WEIGHTS)), modules_of(bound)
    halves: dict[str, dict[str, np.ndarray]] = {}
    peft_names: dict[str, str] = {}
    for name in files.names():
        match = TENSOR.fullmatch(name)
        module = match and _module_name(match[1], bound, modules)
        if not match or not module:
            raise _unexpected_tensor(name, settings)
        peft_names[module] = match[1].removeprefix(PREFIX)
        check_targeted(settings, peft_names[module])
        halves.setdefault(module, {})[match[2]] = files.read(name)
    adapters = {}
    for name, half in halves.items():
        if half.keys() != {"A", "B"}:
            raise UserError(f"adapter of {name}", "lacks one of its two tensors", "copy it again")
        a, b = half["A"], half["B"]
        inputs, outputs = modules[name].inputs(bound.sizes), modules[name].outputs(bound.sizes)
        rank = a.shape[:1]
        if (a.shape, b.shape) != ((*rank, inputs), (outputs, *rank)):
            shapes = f"is {list(a.shape)} and {list(b.shape)}"
            raise UserError(f"adapter of {name}", f"{shapes}, for a module {inputs} -> {outputs}")
        adapters[name] = Adapter(a, b, scale_of(settings, peft_names[name], a.shape[0]))
    if not adapters:
        raise UserError(folder, "holds no adapter")
    return adapters


def _module_name(name: str, bound: BoundTable, modules: Mapping[str, Module]) -> str | None:
    """The table's name of a module with PEFT's name; None if there is none."""
    known = {f"{module}.weight" for module in modules}
    for bare in (name.removeprefix(PREFIX), name.removeprefix(f"{PREFIX}transformer.")):
        module = bound.table.name(f"{bare}.weight", known).removesuffix(".weight")
        if module in modules:
            return module
    return None


def _unexpected_tensor(name: str, settings: Mapping[str, Any]) -> UserError:
    """The error for a tensor that does not belong to an adapter of this model."""
    saved = settings.get("modules_to_save")
    if isinstance(saved, list) and any(f".{module}." in f".{name}" for module in saved):
        reason = "belongs to a module that was fully fine-tuned (modules_to_save)"
    else:
        reason = "does not belong to an adapter of a projection of this model"
    return UserError(f"tensor {name}", reason, MERGE)


def check_targeted(settings: Mapping[str, Any], name: str) -> None:
    """Refuse an adapter of a module that PEFT would not adapt.

    Args:
      settings: from `read_settings`.
      name: the module's name in the model that PEFT adapts.

    Raises:
      UserError: the settings do not include the module, or are invalid.
    """
    if _matches_any(settings.get("exclude_modules"), name):
        raise UserError(f"adapter of {name}", f"{ADAPTER} lists it in exclude_modules", MERGE)
    targets = settings.get("target_modules")
    if targets not in (None, "all-linear") and not _matches_any(targets, name):
        raise UserError(
            f"adapter of {name}", f"{ADAPTER} does not list it in target_modules", MERGE
        )
    layers = settings.get("layers_to_transform")
    if layers is None or layers == [] or isinstance(targets, str):
        return
    patterns = settings.get("layers_pattern") or r"[^.]*"
    patterns = [patterns] if isinstance(patterns, str) else patterns
    matches = (_match(rf"(?:^|.*?\.){part}\.(?P<idx>\d+)\.", name, part) for part in patterns)
    layer = next((int(match["idx"]) for match in matches if match), None)
    if layer not in (layers if isinstance(layers, list) else [layers]):
        raise UserError(
            f"adapter of {name}", f"{ADAPTER} does not list its layer in layers_to_transform", MERGE
        )


def _matches_any(targets: Any, name: str) -> bool:
    """Whether a list of suffixes, or a regular expression, matches a module's name."""
    if not targets:
        return False
    if isinstance(targets, str):
        return bool(_match(rf"(?:{targets})\Z", name, targets))
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise UserError(ADAPTER, "its modules are not a list of names", "restore the file")
    return any(has_suffix(name, target) for target in targets)


def _match(pattern: str, name: str, part: object) -> re.Match[str] | None:
    """Match a pattern, after checking that `part`, which comes from a file, is safe to match."""
    if not isinstance(part, str) or len(part) > MAX_PATTERN or EXPLOSIVE.search(part):
        raise UserError(
            ADAPTER, f"its pattern {repr(part)[:60]} is too complex", "list the modules' names"
        )
    try:
        return re.match(pattern, name)
    except re.error as error:
        reason = f"its pattern {repr(part)[:60]} is not a regular expression: {error}"
        raise UserError(ADAPTER, reason, "restore the file") from error


def scale_of(settings: Mapping[str, Any], name: str, rank: int) -> float:
    """A module's scale: alpha / rank, or alpha / sqrt(rank) if rank-stabilised (arXiv:2312.03732).

    Args:
      settings: from `read_settings`.
      name: the module's name in the model that PEFT adapts.
      rank: of its tensors.

    Raises:
      UserError: the settings state another rank, or alpha is not a number.
    """
    stated = _module_setting(settings, "rank_pattern", name, settings.get("r", 8))
    if stated != rank or not 1 <= rank <= MAX_RANK:
        raise UserError(
            f"adapter of {name}",
            f"is of rank {rank}, but {ADAPTER} has {repr(stated)[:20]} (at most {MAX_RANK})",
            "restore the file",
        )
    alpha = _module_setting(settings, "alpha_pattern", name, settings.get("lora_alpha", 8))
    if type(alpha) not in (int, float) or not 0 < abs(alpha) < 2**31:
        raise UserError(ADAPTER, f"lora_alpha of {name} is {repr(alpha)[:20]}", "restore the file")
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _module_setting(settings: Mapping[str, Any], field: str, name: str, default: Any) -> Any:
    """The value of the first pattern in a field that matches a module's name, else the default."""
    for pattern, value in (settings.get(field) or {}).items():
        if _match(rf"(.*\.)?({pattern})$", name, pattern):
            return value
    return default


def lora_of(adapters: Mapping[str, Adapter], modules: Mapping[str, Module]) -> LoraConfig:
    """The LoRA config that holds all adapters: their targets, largest rank and first scale."""
    targets = {part.path.rpartition(".")[2] for name in adapters for part in modules[name].parts}
    rank = max(len(adapter.a) for adapter in adapters.values())
    scale = next(iter(adapters.values())).scale
    return LoraConfig(
        rank, scale * rank, tuple(target for target in get_args(Target) if target in targets)
    )


def lora_arrays(
    adapters: Mapping[str, Adapter], shape: ModelConfig, bound: BoundTable, dtype: str | None
) -> dict[str, jax.Array]:
    """lora_a and lora_b of every adapted dense layer, by path; zeros where PEFT has no adapter."""
    assert shape.lora is not None
    modules = modules_of(bound)
    shapes = {path: leaf.shape for path, leaf in flatten(Model(shape).abstract_params())}
    first, *rest = {adapter.a.dtype for adapter in adapters.values()}
    stored_dtype = FLOATS["float32"] if rest or first not in FLOATS.values() else first
    array_dtype = np.dtype(FLOATS[dtype]) if dtype else stored_dtype
    arrays = {
        f"{path}.{which}": np.zeros(shapes[f"{path}.{which}"], array_dtype)
        for path in adapted_layers(shape)
        for which in ("lora_a", "lora_b")
    }
    for name, adapter in adapters.items():
        scaled = adapter.b
        if adapter.scale != shape.lora.scale:
            scaled = scaled.astype(np.float32) * np.float32(adapter.scale / shape.lora.scale)
        for part in modules[name].parts:
            a = read_layout(part.a, bound.sizes, adapter.a)
            b = read_layout(part.b, bound.sizes, scaled)
            rank = a.shape[-1]
            arrays[f"{part.path}.lora_a"][part.layer, ..., :rank] = a
            arrays[f"{part.path}.lora_b"][part.layer, :rank] = b
    for path, array in arrays.items():
        check_overflow(path, array, FLOATS["float32"])
    return {path: jax.device_put(array, host_device()) for path, array in arrays.items()}
