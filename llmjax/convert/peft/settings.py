"""adapter_config.json of PEFT: what of it is honoured, and what is refused by name.

The rules are those by which `PeftModel.from_pretrained` puts a LoRA beside a module (peft.tuners:
`check_target_module_exists`, `get_pattern_key`, `LoraLayer.update_layer`).
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmjax.convert.hf.reading import read_object
from llmjax.convert.sources import ADAPTER
from llmjax.errors import UserError

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


def _matches(pattern: str, name: str, said: object) -> re.Match[str] | None:
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
