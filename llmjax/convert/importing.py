"""Import a published model as a run folder."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from llmjax.convert.families.registry import family_of
from llmjax.convert.hf.heads import BodyTensors, body_shape, published_head, read_with_head
from llmjax.convert.hf.mapping import BoundTable, read_params
from llmjax.convert.sources import Published, open_source
from llmjax.convert.tensors import FLOATS
from llmjax.data.config import DataConfig
from llmjax.data.tokenizers.config import HuggingFaceTokenizerConfig, load_tokenizer
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.inference.fill_mask import mask_name
from llmjax.inference.language_model import ONE_DEVICE, mesh_of
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig, Dtype
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel.mesh import MeshConfig
from llmjax.run.checkpoint import files
from llmjax.run.checkpoint.checkpoints import save_params
from llmjax.run.checkpoint.reading import stored_leaves
from llmjax.run.config.options import keyword_options
from llmjax.run.config.schema import Config
from llmjax.run.config.storage import to_json
from llmjax.run.folder import Run
from llmjax.run.origin import Origin, read_origin, write_origin
from llmjax.storage.stores.path import Location, location
from llmjax.storage.stores.transfer import new_folder
from llmjax.tasks.config import name_of
from llmjax.tasks.metadata import metadata_json
from llmjax.tasks.task import TaskContext

MAX_ROW = 1024
"""Default row length for training and scoring an imported model; less if its context is shorter."""
EXAMPLES = {
    "text": "The film was better than the book.",
    "question": "Where is the station?",
    "context": "The station is behind the museum.",
}
"""Column -> text, for the command to try next."""


@dataclass(frozen=True)
class ImportOptions:
    """Options of `import_model`."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Dtype to store parameters in; none: as in the source (float32 for quantised tensors)."""
    mesh: MeshConfig | None = ONE_DEVICE
    """Devices, each of which reads its own shards of the model."""
    multi_token: bool = True
    """Whether to import the layer for tokens after next too, if the source has one: training and
    exports use it, inference does not."""


@keyword_options()
def import_model(source: str | Path, run: str | PathLike[str], options: ImportOptions) -> Location:
    """Import a published model as a run folder.

    Tensors are read one by one, each device's shard separately, so memory never holds two copies of
    the model. A failed import leaves nothing behind.

    Args:
      source: a Hugging Face folder or a .gguf file, local or in a bucket; a name on the hub; or
        sample:NAME.
      run: the folder to create, local or in a bucket (it is then written to a temporary folder
        first).
      options: fields of ImportOptions, also as keywords.

    Returns:
      The run folder.

    Raises:
      UserError: the source is damaged or not supported, or the folder exists or cannot be written.
    """
    dtype = options.dtype
    if dtype is not None and dtype not in FLOATS:
        raise UserError(f"dtype {dtype}", "is not supported", f"choose one of {', '.join(FLOATS)}")
    target = location(os.fspath(run))
    with new_folder(target) as folder:
        published = open_source(str(source))
        _fill(folder, target, published, options)
    return target


def _fill(
    folder: Path,
    target: Location,
    published: Published,
    options: ImportOptions,
) -> None:
    """Write the run of a published model into the empty `folder`, which will be named `target`."""
    dtype, mesh = options.dtype, mesh_of(options.mesh)
    values, source = published.config, published.tensors
    family = family_of(values, published.where)
    head = published_head(family, architecture_of(values, published.where))
    body = source if head is None else BodyTensors(source, family, head.task_class)
    shape = family.read_config(values, body, published.where)
    if not options.multi_token:
        shape = replace(shape, multi_token=False, multi_token_experts=False)
    published.sentence.check(shape.d_model)
    tokenizer = published.tokenizer(shape.vocab_size)
    shape = resolve(
        shape if head is None else body_shape(shape, head.task_class), tokenizer.vocab_size
    )
    length = min(shape.max_length, MAX_ROW, published.sentence.length or MAX_ROW)
    config = Config(
        run_dir=str(target),
        model=shape,
        tokenizer=HuggingFaceTokenizerConfig(path=str(target / "tokenizer" / "tokenizer.json")),
        data=DataConfig(length=length),
    )
    imported = None
    if head is not None:
        context = TaskContext(tokenizer, shape, length)
        imported = read_with_head(source, values, head, family, context, dtype=dtype, mesh=mesh)
    if imported is None:
        bound = BoundTable(published.table or family.table, Model(shape))
        params = read_params(body, bound, dtype=dtype, mesh=mesh)
    else:
        params = imported.params
        config = replace(config, tasks=(imported.task,))
        text = metadata_json({name_of(imported.task): imported.metadata})
        Run(folder).tasks.write_text(text, encoding="utf-8")
    config = replace(config, compute=ComputeConfig(dtype=suitable_dtype(params)))
    write_run(folder, config, params, tokenizer, origin_of(published))


def write_run(
    folder: Path, config: Config, params: Params, tokenizer: Tokenizer, origin: Origin
) -> None:
    """Write a run into an empty folder, and verify it by reading it back.

    Raises:
      UserError: verification fails.
    """
    run = Run(folder)
    tokenizer.save(run.tokenizer)
    run.config_path.write_text(to_json(config), encoding="utf-8")
    write_origin(folder, origin)
    save_params(run.checkpoints, params)
    if reason := files.damage(run.checkpoints, 0):
        raise UserError(folder, f"was not written correctly: {reason}", "check the disk")
    if run.config() != config or load_tokenizer(run.tokenizer).fingerprint != tokenizer.fingerprint:
        raise UserError(folder, "does not read back as it was written", "check the disk")


def origin_of(published: Published) -> Origin:
    """The contents of origin.json."""
    return Origin(
        format=published.format,
        source=published.source,
        model_type=published.config["model_type"],
        architecture=architecture_of(published.config, published.where),
        config=published.config,
        generation_config=published.generation_config,
        **published.sentence.origin_fields(),
    )


def architecture_of(values: Mapping[str, Any], where: object = "config.json") -> str | None:
    """The first class in a config.json's `architectures`; None if there is none.

    Raises:
      UserError: `architectures` is not a list of names.
    """
    names = values.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(where, "architectures is not a list of names", "restore the file")
    return names[0] if names else None


def suitable_dtype(params: Params) -> Dtype:
    """The compute dtype for the parameters: their own, if it is supported, else float32."""
    stored = np.dtype(params["embedding"]["rows"].dtype).name
    return next((name for name in get_args(Dtype) if name == stored), "float32")


def summary(run: Location) -> dict[str, Any]:
    """Summarize an imported run: its source, model, size and a command to try next."""
    opened = Run.open(str(run))
    origin = read_origin(opened.folder)
    assert origin is not None
    config = opened.config()
    dtypes = sorted({str(leaf.dtype) for leaf in stored_leaves(opened.checkpoints, 0).values()})
    return {
        "run": str(run),
        "source": origin.source,
        "family": origin.model_type,
        "architecture": origin.architecture,
        "parameters": Model(config.model).num_params(),
        "dtype": " and ".join(dtypes),
        "bytes": _size(run),
        "next": _next_command(run, opened.tokenizer, config, origin),
    }


def _size(folder: Location) -> int:
    """Bytes of all files."""
    if isinstance(folder, Path):
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return sum(info.size for info in folder.files().values())


def _next_command(run: Location, tokenizer_folder: Path, config: Config, origin: Origin) -> str:
    """A command that uses an imported run, as it can be pasted into a shell."""
    name = shlex.quote(str(run))
    if config.tasks:
        texts = [EXAMPLES.get(column, EXAMPLES["text"]) for column in config.tasks[0].input_columns]
        rows = " ".join(f"--text {shlex.quote(text)}" for text in texts) or "--data rows.jsonl"
        return f"llmjax predict {name} {rows}"
    if config.model.num_decoder_layers:
        return f'llmjax generate {name} --prompt "Once upon a time"'
    if origin.pooling is not None:
        return f"llmjax embed {name} --text {shlex.quote(EXAMPLES['text'])}"
    tokenizer = load_tokenizer(tokenizer_folder)
    if tokenizer.mask_id is None:
        return f"llmjax evaluate {name} --data my.txt"
    text = f"Paris is the {mask_name(tokenizer)} of France."
    return f"llmjax fill-mask {name} --text {shlex.quote(text)}"
