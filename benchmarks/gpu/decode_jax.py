"""Greedy decoding by our Llama with random weights on one GPU; leaves an export of them.

Command: python -m benchmarks.gpu.decode_jax 1b --memory 80e9 --folder /tmp/decode
"""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.decoders import jax_decoder, prompts
from benchmarks.gpu.decoding import BATCHES, EXPORT, lengths, measure_decoding, tokens_file
from benchmarks.gpu.measuring import parser_of
from benchmarks.gpu.shapes import FULL, TOY
from benchmarks.gpu.train_jax import model_of
from llmjax.convert.families.registry import family_for
from llmjax.convert.hf.mapping import BoundTable, lazy_tensors
from llmjax.convert.hf.safetensors import write_folder
from llmjax.model.model import Model
from llmjax.model.params import Params, unstack_layers
from llmjax.run.telemetry.throughput import memory_bytes


def random_params(model: Model) -> Params:
    """Initial parameters in bfloat16."""

    def init(key: jax.Array) -> Params:
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.init(key))

    return jax.jit(init)(jax.random.key(0))


def export(model: Model, params: Params, folder: Path) -> None:
    """Writes a folder for Transformers, without a tokenizer; an old one is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    family = family_for(model.config)
    host = jax.tree.map(np.asarray, params)
    write_folder(folder, list(lazy_tensors(host, BoundTable(family.table, model), "bfloat16")))
    no_ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = family.write_config(model.config) | no_ends | {"dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("model", choices=tuple(FULL))
    args = parser.parse_args()
    shape = (TOY if args.toy else FULL)[args.model]
    if not args.toy and shape.decoding_bytes > args.memory:
        raise SystemExit(f"it does not fit into {args.memory / 2**30:.0f} GiB")
    model = model_of(shape)
    stacked = random_params(model)
    export(model, stacked, args.folder / EXPORT)
    params = unstack_layers(stacked)
    length, tokens = lengths(args.toy)
    for rows in BATCHES:

        def note(out: np.ndarray, rows: int = rows) -> str:
            np.save(tokens_file(args.folder, rows), out)
            return ""

        ids = prompts(rows, shape.vocab, length)
        generate = jax_decoder(model, params, ids, tokens, shape.vocab)
        measure_decoding(generate, rows, memory_bytes, 2 * model.num_params(), note, args.toy)


if __name__ == "__main__":
    main()
