"""Export a run's adapters in PEFT's format: adapter_config.json and adapter_model.safetensors."""

import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.convert.exporting import Exporter, ExportSource, num_parameters
from llmjax.convert.families.family import HeadKind
from llmjax.convert.hf.classes import ModelWithHead, PlainModel, choose_task, export_form
from llmjax.convert.hf.config import read_object, write_json
from llmjax.convert.hf.mapping import BoundTable
from llmjax.convert.hf.names import LAYER, Sizes
from llmjax.convert.hf.safetensors import TensorFiles, read_header, write_file
from llmjax.convert.params import stored_params, without_adapters
from llmjax.convert.peft.adapters import (
    PREFIX,
    WEIGHTS,
    Module,
    adapted_layers,
    has_suffix,
    is_untouched,
    modules_of,
    write_layout,
)
from llmjax.convert.sources import ADAPTER
from llmjax.convert.tensors import FLOATS, LazyTensor
from llmjax.errors import UserError
from llmjax.model.lora import LoraConfig
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.model.trees import flatten, unflatten
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.run.origin import Origin
from llmjax.run.parameters import run_tasks

log = logging.getLogger(__name__)
TASK_TYPES: dict[HeadKind, str] = {
    "SequenceClassification": "SEQ_CLS",
    "TokenClassification": "TOKEN_CLS",
    "QuestionAnswering": "QUESTION_ANS",
}
AUTO_CLASSES = {
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoPeftModelForFeatureExtraction",
}
"""PEFT's class that loads base and adapters, by task type; those with heads want a label count."""


@dataclass(frozen=True)
class PeftExporter(Exporter):
    """Writes the adapters alone, with the head of a task if there is one."""

    task: str | None = None
    """The task whose head is exported, if the run has several."""

    def write(self, source: ExportSource, out: Path) -> None:
        shape = source.shape
        if shape.lora is None:
            raise UserError(source.run.folder, "has no adapters", "export it --to hf")
        if shape.moe is not None and {"gate", "up", "down"} & set(shape.lora.targets):
            reason = "has adapters of experts, which are not written as PEFT files"
            raise UserError(source.run.folder, reason, "export it --to hf, which merges them")
        tasks = run_tasks(source.run, source.config, source.tokenizer, shape)
        task = choose_task(tasks, self.task)
        form = export_form(source.merged_shape, task, source.model_type)
        params = stored_params(source.run, shape, source.step)
        bound = BoundTable(form.family.table, Model(without_adapters(form.shape)))
        adapted = adapted_layers(shape)
        modules = {
            name: module
            for name, module in modules_of(bound).items()
            if any(part.path in adapted for part in module.parts)
        }
        arrays = {path: np.asarray(leaf) for path, leaf in flatten(params) if ".lora_" in path}
        pairs = {name: adapter_of(module, arrays, bound.sizes) for name, module in modules.items()}
        tensors = adapter_tensors(pairs, form, source.dtype)
        tensors += head_tensors(form, params, source.dtype)
        write_file(out / WEIGHTS, tensors)
        ranks = {name: len(a) for name, (a, _) in pairs.items()}
        config = peft_config(shape.lora, modules, ranks, form, bound)
        config["base_model_name_or_path"] = base_name(source.config, source.origin)
        write_json(out / ADAPTER, config)
        written = TensorFiles(read_header(out / WEIGHTS))
        for tensor in tensors:
            if not np.array_equal(written.read(tensor.name), tensor.make()):
                raise UserError(f"tensor {tensor.name}", "does not read back as it was written")

    def summary(self, out: Path) -> dict[str, Any]:
        parameters = num_parameters(TensorFiles(read_header(out / WEIGHTS)))
        config = read_object(out / ADAPTER)
        loader = AUTO_CLASSES.get(config["task_type"])
        if loader is None or config["base_model_name_or_path"] is None:
            return {"parameters": parameters}  # a warning has said how to load it
        load = f"import peft; peft.{loader}.from_pretrained({str(out)!r})"
        return {"parameters": parameters, "next": f"python -c {shlex.quote(load)}"}


def base_name(config: Config, origin: Origin | None) -> str | None:
    """The value of base_model_name_or_path.

    None, with a warning that suggests what to do, if the base is not an unmodified published model,
    or PEFT cannot load it by name.

    Args:
      config: of a run with adapters.
      origin: where its model was imported from.
    """
    base = config.init_from
    if origin is None or not origin.source or (base and not is_untouched(Run(Path(base)))):
        why = f"{base or 'the base model'} is not an unmodified published model"
    elif not _can_be_loaded(origin):
        why = f"PEFT cannot load {origin.source}"
    else:
        return origin.source
    if base:
        name = shlex.quote(base)
        fix = f"run llmjax export {name} FOLDER --to hf, and load the adapters onto that folder"
    else:
        fix = "load the adapters onto a folder of that model"
    log.warning("base_model_name_or_path is left empty, since %s; %s", why, fix)
    return None


def _can_be_loaded(origin: Origin) -> bool:
    """Whether PEFT can load the source by name: a folder, or a hub name without a revision, for
    which PEFT has a separate field."""
    if origin.format != "hf" or origin.source.startswith("sample:"):
        return False
    return "@" not in origin.source or Path(origin.source).is_dir()


def adapter_of(
    module: Module, arrays: Mapping[str, np.ndarray], sizes: Sizes
) -> tuple[np.ndarray, np.ndarray]:
    """PEFT's A and B of a module.

    If it holds several kernels, their adapters share one A if they are equal; otherwise they are
    concatenated along the rank.
    """
    a_parts, b_parts = [], []
    for part in module.parts:
        if f"{part.path}.lora_a" in arrays:
            a, b = (arrays[f"{part.path}.lora_{which}"][part.layer] for which in "ab")
            a_parts.append(write_layout(part.a, sizes, a))
            b_parts.append(write_layout(part.b, sizes, b))
    if all(np.array_equal(a_parts[0], a) for a in a_parts[1:]):
        return a_parts[0], np.sum(b_parts, axis=0, dtype=b_parts[0].dtype)
    return np.concatenate(a_parts, axis=0), np.concatenate(b_parts, axis=1)


def adapter_tensors(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    form: PlainModel | ModelWithHead,
    dtype: str | None,
) -> list[LazyTensor]:
    """The tensors of A and B of each module."""
    tensors = []
    for name, pair in pairs.items():
        for which, array in zip(("lora_A", "lora_B"), pair, strict=True):
            array = array.astype(FLOATS[dtype]) if dtype else array
            tensor = f"{PREFIX}{form.published_name(name)}.{which}.weight"
            tensors.append(LazyTensor(tensor, array.shape, array.dtype, partial(np.array, array)))
    return tensors


def head_tensors(
    form: PlainModel | ModelWithHead, params: Params, dtype: str | None
) -> list[LazyTensor]:
    """The tensors of the head, if there is one."""
    if isinstance(form, PlainModel):
        return []
    pools = form.head.neck == "pooler"
    head = {row.tensor for row in form.task_class.rows() if not pools or "out" in row.param}
    plain = {path: leaf for path, leaf in flatten(params) if ".lora_" not in path}
    tensors = form.tensors(unflatten(plain), dtype)
    return [replace(tensor, name=PREFIX + tensor.name) for tensor in tensors if tensor.name in head]


def peft_config(
    lora: LoraConfig,
    modules: Mapping[str, Module],
    ranks: Mapping[str, int],
    form: PlainModel | ModelWithHead,
    bound: BoundTable,
) -> dict[str, Any]:
    """adapter_config.json, without the base model's name.

    Modules with several concatenated adapters have a larger rank than the run's, and a
    proportionally larger alpha.
    """
    patterns = [row.tensor.removesuffix(".weight") for row in bound.table.rows]
    if isinstance(form, ModelWithHead):
        patterns += [row.tensor.removesuffix(".weight") for row in form.task_class.rows()]
    rank_pattern = {
        re.escape(form.published_name(name)): rank
        for name, rank in ranks.items()
        if rank != lora.rank
    }
    return {
        "peft_type": "LORA",
        "task_type": _task_type(form),
        "r": lora.rank,
        "lora_alpha": _plain_number(lora.alpha),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": all(module.transposed for module in modules.values()),
        "target_modules": target_names(modules, patterns, form),
        "modules_to_save": form.saved_modules() if isinstance(form, ModelWithHead) else None,
        "rank_pattern": rank_pattern,
        "alpha_pattern": {
            name: _plain_number(lora.scale * rank) for name, rank in rank_pattern.items()
        },
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }


def target_names(
    modules: Mapping[str, Module], patterns: Sequence[str], form: PlainModel | ModelWithHead
) -> list[str]:
    """The shortest name suffixes that match these modules and no others, else their full names.

    Args:
      modules: to match.
      patterns: of all modules of the model, with {layer} for the layer.
      form: determines the published names.
    """
    included = {module.pattern for module in modules.values()}
    excluded = set(patterns) - included
    targets: list[str] = []
    for pattern in sorted(included):
        words = pattern.partition(f"{LAYER}.")[2].split(".")
        suffixes = (".".join(words[-count:]) for count in range(1, len(words) + 1))
        suffix = next(
            (s for s in suffixes if not any(has_suffix(name, s) for name in excluded)), None
        )
        if suffix is None:
            names = (module.name for module in modules.values() if module.pattern == pattern)
            targets += map(form.published_name, names)
        elif suffix not in targets:
            targets.append(suffix)
    return targets


def _task_type(form: PlainModel | ModelWithHead) -> str:
    if isinstance(form, ModelWithHead):
        return TASK_TYPES[form.kind]
    if form.shape.is_encoder_decoder:
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM" if form.shape.num_decoder_layers else "FEATURE_EXTRACTION"


def _plain_number(number: float) -> int | float:
    """Write whole numbers as integers, like PEFT."""
    return int(number) if number == int(number) else number
