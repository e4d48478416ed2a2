"""TFDS data sets as rows: features as columns, classes spelt by name, no TensorFlow."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from llmjax.data.config import TfdsSource
from llmjax.data.tables.config import TfdsTable
from llmjax.data.tables.rows import Row
from llmjax.data.text.tfds_source import examples, prepared
from llmjax.errors import UserError


def tfds_rows(table: TfdsTable) -> Iterator[Row]:
    """The rows of a split, or of a slice of one.

    Nested features become columns such as "translation/en", classes their names (None where one is
    -1, as in test sets without labels), sequences lists, and a sequence of several features a dict
    of lists.

    Raises:
      UserError: TFDS does not know the data set or the split, cannot prepare it, or a text in it is
        not UTF-8.
    """
    builder = prepared(TfdsSource(table.name, table.split, data_dir=table.data_dir))
    for number, example in enumerate(examples(builder, table.split, table.name)):
        place = f"{table.name} {table.split} example {number}"
        try:
            yield Row(place, dict(_columns(builder.info.features, example, "")))
        except UnicodeDecodeError as error:
            reason = f"holds text that is not UTF-8: {error}"
            raise UserError(place, reason, "choose another data set") from error


def _columns(feature: Any, value: Any, name: str) -> Iterator[tuple[str, Any]]:
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.FeaturesDict):
        for key, inner in feature.items():
            yield from _columns(inner, value[key], f"{name}/{key}" if name else key)
    else:
        yield name, _plain(feature, value)


def _plain(feature: Any, value: Any) -> Any:
    """Plain Python data of one feature's value."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(int(value)) if int(value) >= 0 else None
    if isinstance(feature, tfds.features.FeaturesDict):
        return {key: _plain(inner, value[key]) for key, inner in feature.items()}
    if isinstance(feature, tfds.features.Sequence):
        if isinstance(feature.feature, tfds.features.FeaturesDict):
            named = feature.feature.items()
            return {key: [_plain(inner, one) for one in value[key]] for key, inner in named}
        return [_plain(feature.feature, one) for one in value]
    if isinstance(value, bytes):
        return value.decode("utf-8") if isinstance(feature, tfds.features.Text) else value
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
