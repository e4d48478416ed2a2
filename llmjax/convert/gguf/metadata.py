"""The keys of one architecture in a GGUF file's metadata, checked as they are asked for."""

from typing import Any, NoReturn

import numpy as np

from llmjax.convert.gguf.file import GgufFile, dequantizer
from llmjax.errors import UserError

LARGEST = float(np.finfo(np.float32).max)
"""Of numbers, which are float32."""
SHOWN = 400
"""Letters of a message, in which a file's own words may stand."""
HARMLESS = {
    "vocab_size",
    "tensor_data_layout",
    "attention.causal",
    "attention.value_length",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_log_multiplier",
}
"""Keys that say nothing new: sizes come from the tensors."""


class Metadata:
    """The keys of one architecture; remembers which were asked for."""

    def __init__(self, file: GgufFile):
        self.file = file
        self.architecture = str(file.metadata.get("general.architecture"))
        self._asked = set(HARMLESS)

    def fail(self, why: str) -> NoReturn:
        raise UserError(self.file.path, why if len(why) <= SHOWN else why[:SHOWN] + "...")

    def get(self, key: str, default: Any = None) -> Any:
        """A number or a word, or the default."""
        self._asked.add(key)
        value = self.file.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, list | np.ndarray):
            self.fail(f"{self.architecture}.{key} is a list, not one value")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            shown = "missing" if value is None else f"{value!r}, not a positive number"
            self.fail(f"{self.architecture}.{key} is {shown}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if not isinstance(value, int | float) or not 0 < value <= LARGEST:
            shown = "missing" if value is None else f"{value!r}, not a positive number"
            self.fail(f"{self.architecture}.{key} is {shown}")
        return short(value)

    def head_width(self, width: int, heads: int) -> int:
        """Of a head, where all of them together are as wide as the model."""
        if width % heads:
            self.fail(f"has {heads} heads, which do not divide its width {width}")
        return width // heads

    def floats(self, tensor: str) -> list[float] | None:
        """A small tensor of the file, if it is there."""
        stored = self.file.tensors.get(tensor)
        if stored is None:
            return None
        if len(stored.shape) != 1:
            self.fail(f"{tensor} {list(stored.shape)} is no list")
        _, dequantize = dequantizer(stored.kind)
        values = dequantize(self.file.rows(tensor, 0, 1))[0]
        return [short(value) for value in values]

    def check_all_known(self) -> None:
        prefix = f"{self.architecture}."
        unknown = [
            key
            for key in self.file.metadata
            if key.startswith(prefix) and key.removeprefix(prefix) not in self._asked
        ]
        if unknown:
            self.fail(f"has keys that are not supported here: {', '.join(unknown[:5])}")


def short(value: Any) -> float:
    """A float32 as the shortest decimal that means it (1e-5, not 9.99999974738e-06)."""
    return float(str(np.float32(value)))


def add_value(writer: Any, key: str, value: Any) -> None:
    """Adds one to a gguf.GGUFWriter, in the type that llama.cpp expects of it."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)
