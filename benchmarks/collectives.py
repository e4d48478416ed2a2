"""What a config's training step communicates on TPUs, which need not be there.

Command: python -m benchmarks.collectives CONFIG --topology v5p:4x4x4 [--slices 2] [--FIELD VALUE]
         e.g. llama_8b --topology v5e:4x4 --slices 2 --mesh.data 2 --model.num-decoder-layers 2
Compiles the step of a causal config for the topology with the compiler of TPUs (pip install
'llmjax[tpu]'), and prints the peak memory of a device and the collectives by kind and mesh axis:
how often a device runs them in a step, the GB that it sends, and whether other work runs beside
them. Then JSON.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the attached devices; the topology has its own
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # the metadata of a machine that has TPUs

from jax.experimental import topologies

from llmjax.parallel.collectives import collectives, summed
from llmjax.parallel.mesh import make_mesh
from llmjax.run.config.files import load_config_file
from llmjax.run.config.overrides import Override, override
from llmjax.run.planning.program import lowered_step


def main() -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--topology", required=True, help="such as v5e:16x16 or v5p:4x4x4")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--vocab", type=int, default=128_256)
    parser.add_argument("--hlo", type=Path, help="a file for the compiled program's text")
    options, words = parser.parse_known_args()
    pairs = zip(words[::2], words[1::2], strict=True)
    fields = [Override(name.removeprefix("--"), (value,)) for name, value in pairs]
    config = override(load_config_file(options.config), fields)
    several = {"num_slices": options.slices} if options.slices > 1 else {}
    topology = topologies.get_topology_desc(options.topology, "tpu", **several)
    mesh = make_mesh(config.mesh, topology.devices)
    lowered = lowered_step(config, mesh, options.vocab)
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    text, memory = compiled.as_text(), compiled.memory_analysis()
    assert text is not None
    assert memory is not None
    if options.hlo:
        options.hlo.write_text(text)
    peak = (memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes) / 2**30
    rows = summed(collectives(text, mesh))
    sizes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
    print(f"{options.slices} x {options.topology}: {sizes}")
    print(f"peak {peak:.2f} GiB a device, compiled in {seconds:.0f} s")
    for row in rows:
        print(
            f"{row['kind']:20}{row['axes']:36}{row['devices']:5} devices{row['slices']:3} slices"
            f"{row['times']:6} times{row['wire_bytes'] / 1e9:10.3f} GB"
            f"{' beside other work' if row['hidden'] else ''}"
        )
    result = {"mesh": dict(mesh.shape), "peak_gib": peak, "seconds": seconds, "collectives": rows}
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
