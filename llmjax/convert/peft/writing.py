"""A run's adapters in PEFT's format: adapter_config.json and adapter_model.safetensors."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.convert.exporting import write_json
from llmjax.convert.folders import becoming
from llmjax.convert.forms import Whole, form_of
from llmjax.convert.hf.heads import Headed, choose_task
from llmjax.convert.hf.layout import Sizes
from llmjax.convert.hf.mapping import Match
from llmjax.convert.hf.names import LAYER
from llmjax.convert.hf.safetensors import TensorFiles, read_header
from llmjax.convert.hf.safetensors_writing import write_file
from llmjax.convert.peft.adapters import Module, adapted_leaves, modules_of, write_layout
from llmjax.convert.peft.base import base_name
from llmjax.convert.sources import ADAPTER
from llmjax.convert.stored import stored_params, without_adapters
from llmjax.convert.tensors import FLOATS, Planned
from llmjax.convert.trees import flatten, unflatten
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.model.lora import LoraConfig
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.run.folder import Run
from llmjax.run.network import run_tasks
from llmjax.run.origin import read_origin

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before the names of a model's modules."""
KINDS = {"text": "SEQ_CLS", "tokens": "TOKEN_CLS", "answers": "QUESTION_ANS"}


def export_peft(
    run: str | Path,
    out: str | Path,
    *,
    dtype: str | None = None,
    step: int | None = None,
    task: str | None = None,
) -> Path:
    """Writes the adapters alone, with the head of a task where there is one; see `export`.

    Raises:
      UserError: the run has no adapters, or what `export` refuses.
    """
    opened = Run.open(run)
    tokenizer = load_tokenizer(opened.tokenizer)
    before = opened.config()
    shape = resolve(before.model, tokenizer.vocab_size)
    if shape.lora is None:
        raise UserError(opened.folder, "has no adapters", "export it --to hf")
    origin = read_origin(opened.folder)
    chosen = choose_task(run_tasks(opened, before, tokenizer, shape), task)
    form = form_of(without_adapters(shape), chosen, origin.model_type if origin else None)
    with becoming(Path(out)) as folder:
        params = stored_params(opened, shape, step)
        match = Match(form.family.table, Model(without_adapters(form.shape)))
        modules = {
            name: module
            for name, module in modules_of(match).items()
            if any(part.leaf in adapted_leaves(shape) for part in module.parts)
        }
        tensors = planned(modules, form, params, match.sizes, dtype)
        tensors += head_tensors(form, params, dtype)
        write_file(folder / WEIGHTS, tensors)
        ranks = {name: _rank(tensors, form, name) for name in modules}
        settings = peft_config(shape.lora, modules, ranks, form, match)
        settings["base_model_name_or_path"] = base_name(before, origin)
        write_json(folder / ADAPTER, settings)
        written = TensorFiles(read_header(folder / WEIGHTS))
        for tensor in tensors:
            if not np.array_equal(written.read(tensor.name), tensor.make()):
                raise UserError(f"tensor {tensor.name}", "does not read back as it was written")
    return Path(out)


def planned(
    modules: Mapping[str, Module],
    form: Whole | Headed,
    params: Params,
    sizes: Sizes,
    dtype: str | None,
) -> list[Planned]:
    """A and B of every module that has an adapter."""
    flat = {path: np.asarray(leaf) for path, leaf in flatten(params) if ".lora_" in path}
    found = []
    for name, module in modules.items():
        pair = adapter_of(module, flat, sizes)
        for which, array in zip(("lora_A", "lora_B"), pair, strict=True):
            kept = array.astype(FLOATS[dtype]) if dtype else array
            tensor = f"{PREFIX}{form.called(name)}.{which}.weight"
            found.append(Planned(tensor, kept.shape, kept.dtype, partial(np.array, kept)))
    return found


def adapter_of(
    module: Module, flat: Mapping[str, np.ndarray], sizes: Sizes
) -> tuple[np.ndarray, np.ndarray]:
    """Their A and B. Where a module holds several of our kernels, their adapters stand side by side
    along the rank: each has columns of B of its own, or all share one A."""
    firsts, seconds = [], []
    for part in module.parts:
        if f"{part.leaf}.lora_a" in flat:
            first, second = (flat[f"{part.leaf}.lora_{which}"][part.layer] for which in "ab")
            firsts.append(write_layout(part.first, sizes, first))
            seconds.append(write_layout(part.second, sizes, second))
    if all(np.array_equal(firsts[0], other) for other in firsts[1:]):
        return firsts[0], np.sum(seconds, axis=0, dtype=seconds[0].dtype)
    return np.concatenate(firsts, axis=0), np.concatenate(seconds, axis=1)


def head_tensors(form: Whole | Headed, params: Params, dtype: str | None) -> list[Planned]:
    """The head's own parameters."""
    if isinstance(form, Whole):
        return []
    own = {row.name for row in form.top.rows() if form.head.neck != "pooler" or "out" in row.leaf}
    plain = {path: leaf for path, leaf in flatten(params) if ".lora_" not in path}
    plan = form.tensors(unflatten(plain), dtype)
    return [replace(one, name=f"{PREFIX}{one.name}") for one in plan if one.name in own]


def peft_config(
    lora: LoraConfig,
    modules: Mapping[str, Module],
    ranks: Mapping[str, int],
    form: Whole | Headed,
    match: Match,
) -> dict[str, Any]:
    """adapter_config.json, but for the base model's name. A rank other than the run's is that of
    several adapters in one module, whose alpha grows with it."""
    others = [row.name.removesuffix(".weight") for row in match.table.rows]
    if isinstance(form, Headed):
        others += [row.name.removesuffix(".weight") for row in form.top.rows()]
    wide = {name: rank for name, rank in ranks.items() if rank != lora.rank}
    wide_names = {re.escape(form.called(name)): rank for name, rank in wide.items()}
    saved = form.saved_modules() if isinstance(form, Headed) else None
    return {
        "peft_type": "LORA",
        "task_type": _task_type(form, form.shape),
        "r": lora.rank,
        "lora_alpha": _whole(lora.alpha),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": all(module.transposed for module in modules.values()),
        "target_modules": target_names(modules, others, form),
        "modules_to_save": saved,
        "rank_pattern": wide_names,
        "alpha_pattern": {name: _whole(lora.scale * rank) for name, rank in wide_names.items()},
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }


def target_names(
    modules: Mapping[str, Module], others: Sequence[str], form: Whole | Headed
) -> list[str]:
    """The shortest ends of names that mean these modules and no others; else whole names."""
    wanted = {module.pattern for module in modules.values()}
    free = set(others) - wanted
    found: list[str] = []
    for pattern in sorted(wanted):
        words = pattern.partition(f"{LAYER}.")[2].split(".")
        ends = (".".join(words[-count:]) for count in range(1, len(words) + 1))
        end = next((e for e in ends if not any(_ends(other, e) for other in free)), None)
        if end is None:
            found += [form.called(m.name) for m in modules.values() if m.pattern == pattern]
        elif end not in found:
            found.append(end)
    return found


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _task_type(form: Whole | Headed, shape: ModelConfig) -> str:
    if isinstance(form, Headed):
        return KINDS[form.use]
    if shape.is_encoder_decoder:
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM" if shape.num_decoder_layers else "FEATURE_EXTRACTION"


def _rank(tensors: Sequence[Planned], form: Whole | Headed, name: str) -> int:
    wanted = f"{PREFIX}{form.called(name)}.lora_A.weight"
    return next(tensor.shape[0] for tensor in tensors if tensor.name == wanted)


def _whole(number: float) -> int | float:
    """Integers as such, as PEFT writes them."""
    return int(number) if number == int(number) else number
