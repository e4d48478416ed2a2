"""What is measured, the most important first. A new part is a line in `PARTS`."""

from dataclasses import dataclass

LLMJAX, TORCH, TRANSFORMERS = "llmjax", "PyTorch", "Transformers"


@dataclass(frozen=True)
class Part:
    """A process that prints results (`measuring.Row`), one JSON object a line."""

    name: str
    """As in --parts."""
    what: str
    """That is measured; both sides of a comparison have the same."""
    by: str
    """The program that is measured."""
    module: str
    """Its main takes --toy, --memory and --folder."""
    arguments: tuple[str, ...]
    expected: int
    """Seconds without which it is not begun; roughly what it takes."""
    limit: int
    """Seconds after which it is ended."""


def _training(model: str, what: str, packed: int, seconds: int) -> tuple[Part, Part, Part]:
    """Training packed with so many documents a row, not packed, and not packed by PyTorch."""
    ours, theirs = "benchmarks.gpu.train_jax", "benchmarks.gpu.train_torch"
    packs = (model, "--documents", str(packed))
    limit = 5 * seconds // 2
    return (
        Part(f"train-{model}-packed", what, LLMJAX, ours, packs, seconds, limit),
        Part(f"train-{model}", what, LLMJAX, ours, (model,), seconds, limit),
        Part(f"train-{model}-torch", what, TORCH, theirs, (model,), seconds, limit),
    )


def _decoding(what: str) -> tuple[Part, Part]:
    ours, theirs = "benchmarks.gpu.decode_jax", "benchmarks.gpu.decode_transformers"
    return (
        Part("decode", what, LLMJAX, ours, ("1b",), 50, 110),
        Part("decode-transformers", what, TRANSFORMERS, theirs, (), 40, 90),
    )


def _finetuning(what: str) -> tuple[Part, Part]:
    module = "benchmarks.gpu.finetune"
    return (
        Part("finetune", what, LLMJAX, module, (LLMJAX,), 40, 90),
        Part("finetune-transformers", what, TRANSFORMERS, module, (TRANSFORMERS,), 30, 60),
    )


_PACKED_1B, _PLAIN_1B, _TORCH_1B = _training("1b", "train Llama 1B", 4, 45)
_PACKED_8B, _PLAIN_8B, _TORCH_8B = _training("8b", "train Llama 8B", 8, 50)
_TESTS = Part("tests", "GPU tests", LLMJAX, "benchmarks.gpu.run_tests", (), 40, 90)

PARTS: tuple[Part, ...] = (
    _PACKED_1B,
    _PLAIN_1B,
    _TORCH_1B,
    _TESTS,
    *_decoding("decode Llama 1B"),
    _PACKED_8B,
    _TORCH_8B,
    _PLAIN_8B,
    *_finetuning("fine-tune MiniLM"),
)
