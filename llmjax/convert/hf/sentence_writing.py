"""The files of sentence-transformers, written beside an encoder's."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.convert.hf.safetensors import write_file
from llmjax.convert.hf.sentence import LEGACY, MODULES, SETTINGS, THEIRS, SentenceConfig
from llmjax.convert.hf.sentence_modules import ACTIVATIONS, WEIGHTS
from llmjax.convert.tensors import LazyTensor
from llmjax.inference.vector_steps import Step

PACKAGE = "sentence_transformers.models"


def write_sentence(folder: Path, sentence: SentenceConfig, width: int) -> None:
    """Writes modules.json, the folders that it names and the settings.

    Args:
      folder: has the encoder already.
      sentence: what to write; it has a pooling.
      width: of the encoder's states.
    """
    steps = [*sentence.steps, *([Step("normalize")] if sentence.normalize else [])]
    names = {"dense": "Dense", "layernorm": "LayerNorm", "normalize": "Normalize"}
    kinds = ["Transformer", "Pooling", *(names[step.kind] for step in steps)]
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds[1:], 1))]
    modules: list[dict[str, Any]] = [
        {"idx": i, "name": str(i), "path": path, "type": f"{PACKAGE}.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    _write(folder / MODULES, modules)
    for path in paths[1:]:
        (folder / path).mkdir()
    _write(folder / paths[1] / "config.json", _pooling(sentence, width))
    for step, path in zip(steps, paths[2:], strict=True):
        _write_step(folder / path, step)
    _write(
        folder / "sentence_bert_config.json",
        {"max_seq_length": sentence.length, "do_lower_case": False},
    )
    if settings := _settings(sentence):
        _write(folder / SETTINGS, settings)


def _pooling(sentence: SentenceConfig, width: int) -> dict[str, Any]:
    """As versions before the list read it, where its order says the same."""
    chosen = [THEIRS[name] for name in sentence.poolings]
    found: dict[str, Any] = {"word_embedding_dimension": width}
    if chosen == [theirs for theirs in LEGACY.values() if theirs in chosen]:
        found |= {name: theirs in chosen for name, theirs in LEGACY.items()}
    else:
        found["pooling_mode"] = chosen
    return found if sentence.include_prompt else found | {"include_prompt": False}


def _settings(sentence: SentenceConfig) -> dict[str, Any]:
    said = {
        "prompts": sentence.prompts,
        "default_prompt_name": sentence.default_prompt,
        "similarity_fn_name": sentence.similarity,
        "truncate_dim": sentence.truncate,
    }
    return {name: value for name, value in said.items() if value}


def _write_step(folder: Path, step: Step) -> None:
    if step.kind == "normalize":
        return
    array = step.arrays["weight"]
    if step.kind == "layernorm":
        _write(folder / "config.json", {"dimension": array.shape[0]})
        names = {"weight": "norm.weight", "bias": "norm.bias"}
    else:
        settings: dict[str, Any] = {
            "in_features": array.shape[1],
            "out_features": array.shape[0],
            "bias": "bias" in step.arrays,
            "activation_function": ACTIVATIONS[step.activation],
        }
        _write(folder / "config.json", settings | ({"use_residual": True} if step.residual else {}))
        names = {"weight": "linear.weight", "bias": "linear.bias", "residual": "residual.weight"}
    write_file(folder / WEIGHTS, list(_planned(step, names)))


def _planned(step: Step, names: dict[str, str]) -> Iterator[LazyTensor]:
    for ours, array in step.arrays.items():
        kept = np.ascontiguousarray(array, np.float32)
        yield LazyTensor(names[ours], kept.shape, kept.dtype, partial(np.array, kept))


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
