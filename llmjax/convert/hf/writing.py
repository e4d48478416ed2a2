"""Export a run as a Hugging Face folder for Transformers, vLLM, SGLang and TGI."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.convert.exporting import Exporter, ExportSource, num_parameters
from llmjax.convert.families.family import Family, canonical
from llmjax.convert.families.registry import family_of
from llmjax.convert.hf.classes import ModelWithHead, choose_task, export_form, with_next_tokens
from llmjax.convert.hf.config import read_object, write_json
from llmjax.convert.hf.safetensors import SHARD_BYTES, open_folder, write_folder
from llmjax.convert.hf.sentence import SentenceConfig, from_origin, write_sentence
from llmjax.convert.hf.tokenizer import export_tokenizer
from llmjax.convert.params import merged_params
from llmjax.convert.tensors import LazyTensor, TensorSource
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.run.origin import Origin, Pooling, published_generation
from llmjax.run.parameters import run_tasks
from llmjax.tasks.task import Task
from llmjax.version import __version__

NOT_KEPT = frozenset(
    """rope_parameters quantization_config auto_map _name_or_path transformers_version
    transformers_weights""".split()
)
"""Fields of the original config.json that are rewritten or no longer apply."""


@dataclass(frozen=True)
class HFExporter(Exporter):
    """Writes a Hugging Face folder, reads it back and compares all tensors bit for bit."""

    max_shard_bytes: int = SHARD_BYTES
    """Bytes of tensors per file."""
    task: str | None = None
    """The task whose head is exported, if the run has several."""

    def check(self) -> None:
        if self.max_shard_bytes < 1:
            raise UserError(f"max_shard_bytes {self.max_shard_bytes}", "is not positive")

    def write(self, source: ExportSource, out: Path) -> None:
        tokenizer, shape, origin = source.tokenizer, source.shape, source.origin
        tasks = run_tasks(source.run, source.config, tokenizer, shape)
        task = choose_task(tasks, self.task)
        form = with_next_tokens(export_form(source.merged_shape, task, source.model_type), shape)
        further = form.shape.multi_token
        params = merged_params(source.run, shape, source.step, source.dtype, multi_token=further)
        tensors = form.tensors(params, source.dtype)
        write_folder(out, tensors, self.max_shard_bytes)
        dtype = source.dtype or np.dtype(params["embedding"]["rows"].dtype).name
        config = hf_config(form.family, form.shape, tokenizer, origin, dtype)
        if isinstance(form, ModelWithHead):
            assert task is not None
            config |= form.config_fields(task, tokenizer)
        elif shape.num_decoder_layers:
            write_json(out / "generation_config.json", generation_config(config, origin))
        write_json(out / "config.json", config)
        export_tokenizer(
            tokenizer,
            out,
            max_length=shape.max_length,
            model_type=form.family.model_type,
        )
        sentence = sentence_config(source, task)
        if sentence is not None:
            write_sentence(out, sentence, shape.d_model)
        read_back(out, form.family, form.shape, tensors)

    def summary(self, out: Path) -> dict[str, Any]:
        config = read_object(out / "config.json")
        name = config["architectures"][0]
        load = f"import transformers; transformers.{name}.from_pretrained({str(out)!r})"
        return {
            "family": config["model_type"],
            "architecture": name,
            "dtype": config["dtype"],
            "parameters": num_parameters(open_folder(out)),
            "next": f"python -c {shlex.quote(load)}",
        }


def hf_config(
    family: Family, shape: ModelConfig, tokenizer: Tokenizer, origin: Origin | None, dtype: str
) -> dict[str, Any]:
    """The config.json: that of the origin, if the family is the same, with current values."""
    config: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    if shape.is_encoder_decoder:
        config |= {"decoder_start_token_id": tokenizer.pad_id, "is_encoder_decoder": True}
    if origin is not None and origin.model_type == family.model_type:
        config |= {name: value for name, value in origin.config.items() if name not in NOT_KEPT}
    config |= family.write_config(shape)
    return config | {"dtype": dtype, "torch_dtype": dtype, "llmjax_version": __version__}


def generation_config(config: dict[str, Any], origin: Origin | None) -> dict[str, Any]:
    """The generation_config.json: that of the origin, and the special tokens if it has none."""
    stored = published_generation(origin)
    if "eos_token_id" in stored:
        return stored
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    return {name: config[name] for name in names if config.get(name) is not None} | stored


def sentence_config(source: ExportSource, task: Task | None) -> SentenceConfig | None:
    """How an embedding model computes embeddings, from its task or its origin; else None."""
    origin = source.origin
    if task is not None and task.config.kind == "similarity":
        pooling: Pooling = "mean" if source.shape.num_encoder_layers else "last"
        length = max(1, source.config.data.length // 2)  # a pair of texts shares a row
        return SentenceConfig("", pooling, normalize=True, length=length)
    if task is not None or origin is None or origin.pooling is None:
        return None
    return from_origin(origin)


def read_back(folder: Path, family: Family, shape: ModelConfig, tensors: list[LazyTensor]) -> None:
    """Verify that the folder holds the model's config and its tensors, bit for bit.

    Raises:
      UserError: it does not.
    """
    written = open_folder(folder)
    config = read_object(folder / "config.json")
    if canonical(family_of(config).read_config(config, written)) != canonical(shape):
        raise UserError(folder / "config.json", "does not read back as the exported model")
    if sorted(written.names()) != sorted(tensor.name for tensor in tensors):
        raise UserError(folder, "does not hold the tensors that were written", "check the disk")
    for name in differing_tensors(written, tensors):
        raise UserError(f"tensor {name}", "does not read back as it was written", "check the disk")


def differing_tensors(written: TensorSource, tensors: list[LazyTensor]) -> Iterator[str]:
    """Names of written tensors that differ from the intended ones."""
    for tensor in tensors:
        stored, expected = written.read(tensor.name), tensor.make()
        same_type = (stored.dtype, stored.shape) == (tensor.dtype, tensor.shape)
        if not same_type or not np.array_equal(_bits(stored), _bits(expected)):
            yield tensor.name


def _bits(array: np.ndarray) -> np.ndarray:
    """View floats as integers: NaN equals itself, and 0.0 differs from -0.0."""
    return array.view(np.dtype(f"u{array.itemsize}"))
