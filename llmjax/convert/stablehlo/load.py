"""Run the programs in this folder; needs only jax and numpy.

    python load.py 504 338 2391 --new 20

prints the ids of the greedy continuation. As a library: `Exported().generate`, or `Exported().run`
for any program in manifest.json, which describes its inputs and outputs.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE / "packages"))  # flatbuffers, which jax.export needs

from jax import export  # noqa: E402

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def read_weights(path: Path) -> dict[str, jax.Array]:
    """Read all tensors of a safetensors file: header length, header, data."""
    raw = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    weights = {}
    for name, entry in json.loads(raw[8:start].tobytes()).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            values = raw[start + first : start + last].view(DTYPES[entry["dtype"]])
            weights[name] = jnp.array(values.reshape(entry["shape"]))
    return weights


class Exported:
    """The programs, their weights and manifest.json."""

    def __init__(self, folder: Path = HERE):
        self.manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.weights = read_weights(folder / self.manifest["weights"])
        self.programs = {}
        for name, program in self.manifest["programs"].items():
            call = export.deserialize(bytearray((folder / program["file"]).read_bytes())).call
            self.programs[name] = jax.jit(call, donate_argnums=1)

    def run(self, name: str, state: dict[str, Any], **inputs: Any) -> tuple[dict, dict]:
        """Run a program; returns its outputs and the new state, which replaces `state`."""
        arrays = {key: jnp.asarray(value, jnp.int32) for key, value in inputs.items()}
        return self.programs[name](self.weights, state, arrays)

    def empty(self, **sizes: int) -> dict[str, jax.Array]:
        """An empty decoder cache; `sizes` are those of the manifest's symbolic dimensions."""
        state = self.manifest["programs"]["decode"]["state"]
        return {
            name: jnp.zeros([sizes.get(n, n) for n in array["shape"]], array["dtype"])
            for name, array in state.items()
            if all(isinstance(n, int) or n in sizes for n in array["shape"])
        }

    def generate(self, prompts: Sequence[Sequence[int]], new: int) -> list[list[int]]:
        """The greedy continuation of each prompt, up to `new` ids or the end of the text.

        The prompts of an encoder-decoder are the encoder's inputs.
        """
        lengths = np.array([len(prompt) for prompt in prompts])
        width = max(2, lengths.max())
        tokens, real = (np.zeros((len(prompts), width), np.int32) for _ in "tr")
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)], real[row, : len(prompt)] = prompt, 1
        if "encode" in self.programs:
            state = self.empty(b=len(prompts), s=new)
            state |= self.run("encode", {}, tokens=tokens, segments=real)[1]
            first = np.full(len(prompts), self.manifest["start_id"])
            position = np.zeros_like(lengths)
            step = {"tokens": first[:, None], "positions": position[:, None]}
            out, state = self.run("decode", state, **step)
        else:
            state = self.empty(b=len(prompts), s=int(width) + new)
            positions = np.broadcast_to(np.arange(width), tokens.shape)
            position = lengths - 1
            inputs = {"tokens": tokens, "positions": positions, "last": position}
            out, state = self.run("prefill", state, **inputs)
        ids = []
        for _ in range(new):
            ids.append(np.asarray(out["logits"].argmax(-1)))
            position = position + 1
            if len(ids) < new:
                step = {"tokens": ids[-1][:, None], "positions": position[:, None]}
                out, state = self.run("decode", state, **step)
        return [self._until_end(row) for row in np.stack(ids, axis=1).tolist()]

    def _until_end(self, ids: list[int]) -> list[int]:
        ends = [ids.index(end) for end in self.manifest["end_ids"] if end in ids]
        return ids[: min(ends, default=len(ids))]


def main() -> None:
    parser = argparse.ArgumentParser(description="Continue a sequence of token ids.")
    parser.add_argument("ids", type=int, nargs="+", help="token ids of the prompt")
    parser.add_argument("--new", type=int, default=20, help="maximum number of new ids")
    args = parser.parse_args()
    exported = Exported()
    if "decode" in exported.programs:
        ids = exported.generate([args.ids], args.new)[0]
    else:  # an encoder: the most likely id at every position
        rows = np.array([args.ids + [0] * (len(args.ids) == 1)])
        inputs = {
            name: np.zeros_like(rows) for name in exported.manifest["programs"]["forward"]["inputs"]
        }
        inputs |= {"tokens": rows, "segments": (np.arange(rows.shape[1]) < len(args.ids))[None]}
        out, _ = exported.run("forward", {}, **inputs)
        ids = np.asarray(out["logits"].argmax(-1))[0, : len(args.ids)].tolist()
    print(*ids)


if __name__ == "__main__":
    main()
