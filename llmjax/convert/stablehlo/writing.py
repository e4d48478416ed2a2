"""Export a run as StableHLO programs, with jax.export, that need only jax and numpy to run.

The folder holds the programs (for given platforms, and any batch size and lengths), the weights in
safetensors, the tokenizer, manifest.json and load.py.
"""

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.convert.exporting import Exporter, ExportSource
from llmjax.convert.hf.config import write_json
from llmjax.convert.hf.safetensors import write_file
from llmjax.convert.params import model_params
from llmjax.convert.stablehlo.programs import (
    Named,
    Program,
    choose_platforms,
    cpu_device,
    flat,
    programs,
)
from llmjax.convert.tensors import LazyTensor
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.model.compute import Dtype
from llmjax.model.model import Model
from llmjax.model.params import Params, unstack_layers

FORMAT = 1
WEIGHTS = "model.safetensors"
LOADER = "load.py"
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest difference between the programs' logits and the model's, in standard deviations."""


@dataclass(frozen=True)
class StableHloExporter(Exporter):
    """Writes programs, weights, tokenizer, manifest and loader, and compares logits.

    The programs are prefill and decode for a decoder, hidden and forward for an encoder, encode and
    decode for an encoder-decoder. The dtype applies to weights and matrix products.
    """

    platforms: Sequence[str] | None = None
    """Any of cpu, cuda and tpu; None for all that the model can be lowered for."""
    dtypes: ClassVar = get_args(Dtype)

    def check(self) -> None:
        if importlib.util.find_spec("flatbuffers") is None:  # used by jax.export
            raise UserError("StableHLO", "needs the flatbuffers package", "pip install flatbuffers")

    def write(self, source: ExportSource, out: Path) -> None:
        model, params = _unstacked_model(source)
        weights = flat(params)
        shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
        model_programs = programs(model)
        platforms = choose_platforms(model_programs, shapes, self.platforms)
        described = {
            program.name: _write_program(out, program, shapes, platforms)
            for program in model_programs
        }
        write_file(out / WEIGHTS, [_lazy_tensor(name, weights[name]) for name in sorted(weights)])
        manifest = _manifest(model, source.tokenizer, described, shapes, platforms)
        write_json(out / "manifest.json", manifest)
        source.tokenizer.save(out / "tokenizer")
        shutil.copyfile(Path(__file__).with_name("load.py"), out / LOADER)
        _copy_flatbuffers(out / "packages" / "flatbuffers")
        _check(out, model, params, platforms)


def _unstacked_model(source: ExportSource) -> tuple[Model, Params]:
    """The model with reference attention, which lowers for every platform, and unstacked layers.

    Stacked weights would have to be sliced at every decoding step.
    """
    dtype = source.dtype
    params = model_params(source.run, source.shape, source.step, dtype)
    compute = replace(
        source.config.compute, attention="reference", remat="none", quantization="none"
    )
    if dtype is not None:
        compute = replace(compute, dtype=cast(Dtype, dtype))
        params = jax.tree.map(lambda x: x.astype(dtype), params)
    return Model(source.merged_shape, compute), unstack_layers(params)


def _write_program(
    folder: Path, program: Program, weights: Named, platforms: Sequence[str]
) -> dict[str, Any]:
    """Write a program and return its entry in the manifest."""
    lowered = program.lowered(weights, platforms)
    file = f"{program.name}.jax"
    (folder / file).write_bytes(lowered.serialize())
    outputs, state = jax.tree.unflatten(lowered.out_tree, lowered.out_avals)
    return {
        "file": file,
        "inputs": _described(program.inputs),
        "state": _described(program.state),
        "outputs": _described(outputs),
        "new_state": _described(state),
        "calling_convention": lowered.calling_convention_version,
    }


def _described(named: Named) -> dict[str, Any]:
    def size(n: Any) -> int | str:
        return n if isinstance(n, int) else str(n)

    return {
        name: {"shape": [size(n) for n in array.shape], "dtype": str(np.dtype(array.dtype))}
        for name, array in named.items()
    }


def _lazy_tensor(name: str, array: jax.Array) -> LazyTensor:
    return LazyTensor(name, array.shape, np.dtype(array.dtype), lambda: np.asarray(array))


def _manifest(
    model: Model,
    tokenizer: Tokenizer,
    described: dict[str, Any],
    shapes: Named,
    platforms: Sequence[str],
) -> dict[str, Any]:
    config = model.config
    return {
        "format": FORMAT,
        "made_by": {"llmjax": metadata.version("llmjax"), "jax": jax.__version__},
        "platforms": list(platforms),
        "sizes": {
            "b": "rows",
            "t": "tokens of a row, 2 at least",
            "e": "tokens of the encoder's row, 2 at least",
            "s": "slots of the cache: tokens that a row may have",
        },
        "signature": "program(weights, state, inputs) -> (outputs, new_state)",
        "programs": described,
        "weights": WEIGHTS,
        "weight_shapes": _described(shapes),
        "compute_dtype": model.compute.dtype,
        "context_length": config.max_length,
        "vocab_size": config.vocab_size,
        "tokenizer": "tokenizer",
        "prefix": list(tokenizer.prefix),
        "suffix": list(tokenizer.suffix),
        "start_id": tokenizer.bos_id,
        "end_ids": list(tokenizer.stop_ids),
        "pad_id": tokenizer.pad_id,
    }


def _copy_flatbuffers(folder: Path) -> None:
    """Copy the package that jax.export needs to read programs, so that nothing needs installing."""
    import flatbuffers

    folder.mkdir(parents=True)
    for file in Path(flatbuffers.__file__).parent.glob("*.py"):
        shutil.copyfile(file, folder / file.name)


def loader(folder: Path) -> Any:
    """Import load.py from an exported folder."""
    spec = importlib.util.spec_from_file_location("llmjax_exported", folder / LOADER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _check(folder: Path, model: Model, params: Params, platforms: Sequence[str]) -> None:
    """Load the folder and compare its programs' logits with the model's.

    Raises:
      RuntimeError: they differ.
    """
    exported = loader(folder).Exported(folder)
    if "cpu" not in platforms:
        return
    with jax.default_device(cpu_device()):
        expected, actual = _both_logits(model, params, exported)
    deviation = float(np.std(expected)) or 1.0
    worst = float(np.abs(expected - actual).max()) / deviation
    if not worst <= TOLERANCE[model.compute.dtype]:
        raise RuntimeError(
            f"the exported programs' logits differ by {worst:.3g} standard deviations"
        )


def _both_logits(model: Model, params: Params, exported: Any) -> tuple[np.ndarray, np.ndarray]:
    """The logits of the model and of the exported programs for the same random tokens."""
    config = model.config
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 6), np.int32)
    ones, positions = np.ones_like(tokens), np.broadcast_to(np.arange(6), (2, 6))
    if "forward" in exported.programs:
        inputs = {"tokens": tokens, "segments": ones}
        if config.token_types:
            inputs["token_types"] = np.zeros_like(tokens)
        actual = exported.run("forward", {}, **inputs)[0]["logits"]
        expected = jax.jit(model.apply)(params, **jax.tree.map(jnp.asarray, inputs))
        return np.asarray(expected), np.asarray(actual)
    state, logits, first = exported.empty(b=2, s=8), [], 0
    encoder_inputs: dict[str, Any] = {}
    if "encode" in exported.programs:
        state |= exported.run("encode", {}, tokens=tokens, segments=ones)[1]
        encoder_inputs = {"encoder_tokens": jnp.asarray(tokens)}
    else:
        prompt = {"tokens": tokens[:, :4], "positions": positions[:, :4], "last": [3, 3]}
        out, state = exported.run("prefill", state, **prompt)
        logits, first = [out["logits"]], 4
    for i in range(first, 6):
        step = {"tokens": tokens[:, i : i + 1], "positions": positions[:, i : i + 1]}
        out, state = exported.run("decode", state, **step)
        logits.append(out["logits"])
    expected = jax.jit(model.apply)(params, jnp.asarray(tokens), **encoder_inputs)
    return np.asarray(expected)[:, -len(logits) :], np.stack(logits, axis=1)
