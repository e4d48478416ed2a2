"""Compiles a training step for 8 and for 64 CPU devices, with the same rows on each, and prints
what a device sends and holds. Usage: python growth.py MESHES.json, a list of sizes of axes."""

import json
import sys
from collections import Counter

import jax

from llmjax.data.config import DataConfig
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.parallel.collectives import collectives
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.run.config.schema import Config
from llmjax.run.planning.program import lowered_step

ROWS, LENGTH, VOCABULARY, WIDTH = 2, 64, 4096, 128


def measured(sizes: dict[str, int]) -> dict:
    """Bytes of a device: those of collectives by kind and axes, of temporaries, of arguments."""
    model = ModelConfig(
        max_length=LENGTH, d_model=WIDTH, num_decoder_layers=2, num_heads=4, num_kv_heads=2,
        d_ff=256, tie_embeddings=False,
    )  # fmt: skip
    devices = sizes["data"] * sizes["fsdp"]
    config = Config(
        run_dir="",
        model=model,
        compute=ComputeConfig(dtype="bfloat16", remat="full"),
        data=DataConfig(batch_size=ROWS * devices, length=LENGTH),
    )
    mesh = make_mesh(MeshConfig(**sizes), jax.devices()[:devices])
    compiled = lowered_step(config, mesh, VOCABULARY).compile()
    moved = Counter()
    for each in collectives(compiled.as_text(), mesh):
        moved[f"{each.kind} over {' x '.join(each.axes)}"] += each.total_bytes
    memory = compiled.memory_analysis()
    return {
        "moved": moved,
        "temporary": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
    }


if __name__ == "__main__":
    print(json.dumps([measured(sizes) for sizes in json.loads(sys.argv[1])]))
