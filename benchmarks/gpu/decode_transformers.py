"""Greedy decoding by Transformers' generate, with the weights that `decode_jax` has exported.

Command: python -m benchmarks.gpu.decode_transformers --folder /tmp/decode
"""

import numpy as np
import torch
import transformers

from benchmarks.decoders import prompts, transformers_decoder
from benchmarks.gpu.decoding import BATCHES, EXPORT, lengths, measure_decoding, tokens_file
from benchmarks.gpu.measuring import parser_of


def main() -> None:
    args = parser_of(__doc__).parse_args()
    if not (args.toy or torch.cuda.is_available()):
        raise SystemExit("this PyTorch finds no GPU")
    folder = args.folder / EXPORT
    if not (folder / "config.json").exists():
        raise SystemExit("there are no weights: llmjax has not exported any")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    vocab = transformers.AutoConfig.from_pretrained(folder).vocab_size
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    device = "cpu" if args.toy else "cuda"
    length, tokens = lengths(args.toy)
    decode = transformers_decoder(folder, "bfloat16", device)
    for rows in BATCHES:

        def note(out: np.ndarray, rows: int = rows) -> str:
            """How many rows begin as ours: the same weights, if not all roundings."""
            path = tokens_file(args.folder, rows)
            if not path.exists():
                return ""
            same = int((np.load(path)[:, 0] == out[:, 0]).sum())
            return f"first token as llmjax's in {same} of {rows}"

        generate = decode(prompts(rows, vocab, length), tokens)
        measure_decoding(generate, rows, peak_bytes(args.toy), weights, note, args.toy)


def peak_bytes(toy: bool):
    """What returns the most bytes of PyTorch so far."""
    return (lambda: None) if toy else torch.cuda.max_memory_allocated


if __name__ == "__main__":
    main()
