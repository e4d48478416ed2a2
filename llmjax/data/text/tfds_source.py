"""TFDS data sets as documents: ArrayRecord or TFRecord, without TensorFlow."""

import contextlib
import difflib
import hashlib
import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmjax.data.config import TfdsSource
from llmjax.data.text.files import Damaged, one_at_a_time, open_or_build
from llmjax.errors import UserError
from llmjax.storage import manifest
from llmjax.storage.caches import cache_root

READ_AHEAD = 256
"""Records of an ArrayRecord file that are read at once, at most."""
FORMAT = 2
"""Of the embedded corpus's folder; 1 had no checksums."""
READ_AHEAD_BYTES = 1 << 26
"""Fewer where so many of the largest so far would take more than this."""


def embedded_documents(cache_dir: str | None) -> Iterator[str]:
    """The embedded corpus, prepared on first use under the cache folder."""
    from llmjax.data.text.builders.python_docs import python_fingerprint

    with _quiet():
        from llmjax.data.text.builders.python_reference import PythonReference
    folder = cache_root(cache_dir) / "tfds" / f"{python_fingerprint()}-{FORMAT}"

    def prepare(place: Path) -> None:
        with _quiet(bars=False):
            PythonReference(data_dir=place).download_and_prepare(file_format="array_record")
        manifest.write(place)

    def verify(place: Path) -> None:
        if why := manifest.damage(place):
            raise Damaged(place, why)

    open_or_build(folder, prepare, verify)
    return _records(PythonReference(data_dir=folder), "train", ("text",), "the embedded corpus")


def tfds_documents(source: TfdsSource) -> Iterator[str]:
    """The documents of a TFDS data set, prepared first (as ArrayRecord) where it is not yet."""
    return _records(prepared(source), source.split, tuple(source.field.split("/")), source.name)


def tfds_fingerprint(source: TfdsSource) -> tuple[str, list[Path]]:
    """What identifies the data set besides its configuration: its name, version and description,
    and the local files that hold it (none where it lies in a bucket)."""
    builder = prepared(source)
    description = (builder.data_path / "dataset_info.json").read_bytes()
    files = [Path(os.fspath(f)) for split in builder.info.splits.values() for f in split.filepaths]
    digest = hashlib.blake2b(description, digest_size=16).hexdigest()
    return f"{builder.info.full_name}:{digest}", [file for file in files if file.is_file()]


def prepared(source: TfdsSource) -> Any:
    """TFDS's builder of the data set, which is downloaded and prepared first where it is not yet.

    Raises:
      UserError: TFDS does not know it, or cannot prepare it.
    """
    if source.name.startswith("huggingface:"):
        raise UserError(source.name, "is a hub data set", "use a source of kind 'hub'")
    builder = _builder(source)
    if not builder.is_prepared() and "://" not in str(builder.data_dir):
        with one_at_a_time(Path(builder.data_dir)):
            builder = _builder(source)  # another process may have prepared it meanwhile
            _download(builder, source)
    elif not builder.is_prepared():
        _download(builder, source)
    return builder


def _builder(source: TfdsSource) -> Any:
    with _quiet():
        import tensorflow_datasets as tfds

        try:
            return tfds.builder(source.name, data_dir=source.data_dir)
        except tfds.core.registered.DatasetNotFoundError as error:
            raise _unknown(source.name) from error
        except (ValueError, RuntimeError, AssertionError) as error:
            raise UserError(source.name, f"TFDS refuses it: {error}", "check the name") from error


def _download(builder: Any, source: TfdsSource) -> None:
    import tensorflow_datasets as tfds

    with _quiet():
        try:
            if not builder.is_prepared():
                builder.download_and_prepare(file_format="array_record")
        except ImportError as error:
            reason = f"preparing it needs a package that is not installed ({error.name})"
            raise UserError(source.name, reason, "pip install 'llmjax[tfrecord]'") from error
        except (OSError, tfds.download.DownloadError) as error:
            reason = f"cannot be downloaded and prepared: {error}"
            raise UserError(source.name, reason, "check network and disk, or set data_dir") from (
                error
            )


def _unknown(name: str) -> UserError:
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    near = difflib.get_close_matches(name.split("/")[0].split(":")[0], known, n=3)
    fix = f"did you mean {' or '.join(near)}?" if near else "see tensorflow.org/datasets/catalog"
    return UserError(f"TFDS data set {name!r}", "is unknown to TFDS and not in its data_dir", fix)


def _records(builder: Any, split: str, field: tuple[str, ...], name: str) -> Iterator[str]:
    _check_field(builder, field, name)
    for record in examples(builder, split, name):
        for key in field:
            record = record[key]
        try:
            text = record.decode("utf-8") if isinstance(record, bytes) else str(record)
        except UnicodeDecodeError as error:
            raise UserError(name, f"{'/'.join(field)!r} is not UTF-8: {error}") from error
        if text:
            yield text


def _check_field(builder: Any, field: tuple[str, ...], name: str) -> None:
    import tensorflow_datasets as tfds

    feature, texts = builder.info.features, []

    def walk(node: Any, path: tuple[str, ...]) -> None:
        if isinstance(node, tfds.features.FeaturesDict):
            for key, inner in node.items():
                walk(inner, (*path, key))
        elif isinstance(node, tfds.features.Text):
            texts.append(path)

    walk(feature, ())
    if field not in texts:
        fields = ", ".join("/".join(path) for path in texts) or "there are none"
        reason = f"has no text feature {'/'.join(field)!r}"
        raise UserError(name, reason, f"set field to one of: {fields}")


def examples(builder: Any, split: str, name: str) -> Iterator[Any]:
    """The records of a split, or of a slice of one, as dicts of NumPy values, nested as they are.

    Raises:
      UserError: there is no such split, or its files are damaged or of another format.
    """
    import tensorflow_datasets as tfds

    try:
        info = builder.info.splits[split]
    except (KeyError, ValueError) as error:
        splits = ", ".join(builder.info.splits)
        raise UserError(
            f"{name}, split {split!r}", "does not exist", f"its splits: {splits}"
        ) from (error)
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        yield from _array_records(builder.as_data_source(split=split))
        return
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        reason = f"is stored as {builder.info.file_format.value}"
        raise UserError(name, reason, "prepare it again as array_record")
    for part in info.file_instructions:
        end = None if part.take < 0 else part.skip + part.take
        for record in itertools.islice(_tfrecords(part.filename), part.skip, end):
            yield builder.info.features.deserialize_example_np(record)


def _array_records(rows: Any) -> Iterator[Any]:
    start, count, largest = 0, 1, 1
    while start < len(rows):
        found = rows.__getitems__(list(range(start, min(start + count, len(rows)))))
        yield from found
        start += count
        largest = max(largest, *map(_bytes, found))
        count = max(1, min(READ_AHEAD, 2 * count, READ_AHEAD_BYTES // largest))


def _bytes(value: Any) -> int:
    """About how many bytes an example takes."""
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    if isinstance(value, list):
        return sum(map(_bytes, value))
    return len(value) if isinstance(value, bytes | str) else getattr(value, "nbytes", 8)


def _tfrecords(path: str) -> Iterator[bytes]:
    import grain

    try:
        yield from grain.experimental.TFRecordIterDataset(path)
    except ValueError as error:
        raise UserError(path, f"is damaged: {error}", "prepare the data set again") from error


@contextlib.contextmanager
def _quiet(bars: bool = True) -> Iterator[None]:
    """TFDS prints to stdout, which is for results; and draws its progress `bars` on stderr."""
    import tensorflow_datasets as tfds

    if not bars:
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
