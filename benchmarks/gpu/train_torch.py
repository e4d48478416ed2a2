"""A plain PyTorch training step of the same Llama on one GPU.

Command: python -m benchmarks.gpu.train_torch 1b --memory 80e9
"""

import torch

from benchmarks.gpu.measuring import chosen_shape, emit, parser_of, time_steps, training_row
from benchmarks.torch_llama import llama_training


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("model", choices=("1b", "8b"))
    args = parser.parse_args()
    if not (args.toy or torch.cuda.is_available()):
        raise SystemExit("this PyTorch finds no GPU")
    device, backend = ("cpu", "eager") if args.toy else ("cuda", "inductor")
    shape = chosen_shape(args)
    seconds, loss = time_steps(llama_training(shape, device, backend), args.toy)
    peak = None if args.toy else torch.cuda.max_memory_allocated()
    emit(training_row(shape, "not packed", seconds, peak, f"torch.compile, loss {loss:.2f}"))


if __name__ == "__main__":
    main()
