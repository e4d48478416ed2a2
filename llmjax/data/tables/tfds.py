"""TFDS data sets as tables, without TensorFlow: features are columns, classes are names."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from llmjax.data.tables.table import Row, Table
from llmjax.data.text.tfds import prepare_builder, read_examples
from llmjax.errors import UserError


@dataclass(frozen=True)
class TfdsTable(Table):
    """A TensorFlow Datasets data set, read without TensorFlow.

    Nested features become columns such as "translation/en", classes become their names (None for
    -1, as in test sets without labels), sequences become lists, and sequences of several features
    become dicts of lists.
    """

    name: str
    """TFDS name: name, name/config or name/config:version."""
    split: str = "train"
    """A split, or a slice of one: "train[:10%]"."""
    data_dir: str | None = None
    """TFDS data folder; None: TFDS's default (~/tensorflow_datasets)."""
    kind: Literal["tfds"] = "tfds"

    @property
    def location(self) -> str:
        return f"{self.name}, split {self.split!r}"

    def rows(self) -> Iterator[Row]:
        builder = prepare_builder(self.name, self.data_dir)
        for number, example in enumerate(read_examples(builder, self.split, self.name)):
            place = f"{self.name} {self.split} example {number}"
            try:
                yield Row(place, dict(_columns(builder.info.features, example, "")))
            except UnicodeDecodeError as error:
                reason = f"contains text that is not UTF-8: {error}"
                raise UserError(place, reason, "choose another data set") from error


def _columns(feature: Any, value: Any, name: str) -> Iterator[tuple[str, Any]]:
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.FeaturesDict):
        for key, inner in feature.items():
            yield from _columns(inner, value[key], f"{name}/{key}" if name else key)
    else:
        yield name, _plain(feature, value)


def _plain(feature: Any, value: Any) -> Any:
    """Converts a feature's value to plain Python values."""
    import numpy as np
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(int(value)) if int(value) >= 0 else None
    if isinstance(feature, tfds.features.FeaturesDict):
        return {key: _plain(inner, value[key]) for key, inner in feature.items()}
    if isinstance(feature, tfds.features.Sequence):
        if isinstance(feature.feature, tfds.features.FeaturesDict):
            named = feature.feature.items()
            return {key: [_plain(inner, item) for item in value[key]] for key, inner in named}
        return [_plain(feature.feature, item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8") if isinstance(feature, tfds.features.Text) else value
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
