"""Time and peak memory of importing and exporting a Llama of about a billion parameters.

Command: python -m benchmarks.import_memory [--layers 16]
Writes a Hugging Face folder of random bfloat16 weights with the shapes of Llama 3.2 1B and a small
tokenizer, imports it with one device and with 8 virtual ones (fsdp=8), and exports it, each in a
separate process. Peak memory is the maximum of anonymous memory (RssAnon, without mapped files) in
/proc, sampled 50 times a second. Prints a table, then JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

WIDTH, HEADS, KV_HEADS, INNER, VOCAB = 2048, 32, 8, 8192, 128256


def write_model(folder: Path, layers: int) -> tuple[int, int]:
    """Writes a file per layer; returns the bytes of all tensors and of the largest."""
    folder.mkdir()
    head = WIDTH // HEADS
    shapes = {
        "self_attn.q_proj": (WIDTH, WIDTH),
        "self_attn.k_proj": (KV_HEADS * head, WIDTH),
        "self_attn.v_proj": (KV_HEADS * head, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH),
        "mlp.gate_proj": (INNER, WIDTH),
        "mlp.up_proj": (INNER, WIDTH),
        "mlp.down_proj": (WIDTH, INNER),
        "input_layernorm": (WIDTH,),
        "post_attention_layernorm": (WIDTH,),
    }
    files = [
        {f"model.layers.{i}.{name}.weight": shape for name, shape in shapes.items()}
        for i in range(layers)
    ]
    files.append({"model.embed_tokens.weight": (VOCAB, WIDTH), "model.norm.weight": (WIDTH,)})
    generator, weight_map, sizes = np.random.default_rng(0), {}, []
    for number, tensors in enumerate(files, 1):
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        arrays = {
            key: (0.02 * generator.standard_normal(shape, np.float32)).astype(ml_dtypes.bfloat16)
            for key, shape in tensors.items()
        }
        save_file(arrays, folder / name)
        weight_map |= dict.fromkeys(arrays, name)
        sizes += [array.nbytes for array in arrays.values()]
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCAB,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    _write_tokenizer(folder)
    return sum(sizes), max(sizes)


def _write_tokenizer(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate(["<|endoftext|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def measure(arguments: list[str], devices: int) -> tuple[float, int]:
    """Runs a command of llmjax; returns its seconds, and its peak anonymous memory in bytes."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-m", "llmjax", *arguments], env=environment)
    while process.poll() is None:
        peak = max(peak, _anonymous(process.pid))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"llmjax {' '.join(arguments)} exited with code {process.returncode}")
    return time.perf_counter() - start, peak


def _anonymous(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument(
        "--folder", type=Path, help="working folder, needs 10 GB; default: a temporary one"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        work = Path(temporary)
        model, largest = write_model(work / "published", args.layers)
        commands = {
            "import, 1 device": (["import", f"{work}/published", f"{work}/one"], 1),
            "import, 8 devices": (
                ["import", f"{work}/published", f"{work}/eight", "--mesh.fsdp", "8"],
                8,
            ),
            "export": (["export", f"{work}/one", f"{work}/exported"], 1),
        }
        idle = measure(["generate", "--help"], 1)[1]
        results = {name: measure(*command) for name, command in commands.items()}
    print(f"model: {model / 1e9:.2f} GB in bfloat16, largest tensor {largest / 1e9:.2f} GB")
    for name, (seconds, peak) in results.items():
        print(f"{name:20}{seconds:8.1f} s  peak {peak / 1e9:6.2f} GB  {peak / model:5.2f} models")
    peaks = {name: {"seconds": s, "peak_bytes": p} for name, (s, p) in results.items()}
    print(json.dumps({"model_bytes": model, "largest": largest, "idle": idle, "results": peaks}))


if __name__ == "__main__":
    main()
