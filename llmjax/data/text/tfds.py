"""TFDS data sets as documents: ArrayRecord or TFRecord, without TensorFlow."""

import contextlib
import difflib
import hashlib
import io
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmjax.data.text.filters import AnyFilter
from llmjax.data.text.python_docs import python_fingerprint
from llmjax.data.text.source import Identity, Source, identify_files, identify_settings
from llmjax.errors import UserError
from llmjax.storage.cache_folders import Damaged, folder_lock, open_or_build
from llmjax.storage.checksums import find_damage, write_manifest
from llmjax.storage.writing import cache_root

READ_AHEAD = 256
"""Maximum records of an ArrayRecord file read at a time."""
READ_AHEAD_BYTES = 1 << 26
"""Maximum bytes read at a time, estimated by the largest record so far."""
FORMAT = 2
"""Format of the embedded corpus's folder; 1 had no checksums."""


@dataclass(frozen=True)
class EmbeddedSource(Source):
    """Text of every Python installation: its language reference and standard library docstrings."""

    weight: float = 1.0
    """Share of rows taken from this source, relative to the other sources' weights."""
    filters: tuple[AnyFilter, ...] = ()
    """Applied to its documents, in this order."""
    kind: Literal["embedded"] = "embedded"

    def documents(self, cache_dir: str | None = None) -> Iterator[str]:
        """Reads a TFDS data set, prepared in the cache on first use."""
        with _quiet():
            from llmjax.data.text.python_reference import PythonReference
        folder = cache_root(cache_dir) / "tfds" / f"{python_fingerprint()}-{FORMAT}"

        def prepare(target: Path) -> None:
            with _quiet(bars=False):
                PythonReference(data_dir=target).download_and_prepare(file_format="array_record")
            write_manifest(target)

        def verify(path: Path) -> None:
            if why := find_damage(path):
                raise Damaged(path, why)

        open_or_build(folder, prepare, verify)
        return _records(PythonReference(data_dir=folder), "train", ("text",), "the embedded corpus")

    def identify(self, cache_dir: str | None = None) -> Identity:
        return identify_settings(["embedded", python_fingerprint()])


@dataclass(frozen=True)
class TfdsSource(Source):
    """A TensorFlow Datasets data set, read without TensorFlow."""

    name: str
    """TFDS name: name, name/config or name/config:version."""
    split: str = "train"
    """A split, or a slice of one: "train[:10%]"."""
    field: str = "text"
    """The text feature; nested ones with slashes: "translation/en"."""
    data_dir: str | None = None
    """TFDS data folder; None: TFDS's default (~/tensorflow_datasets)."""
    weight: float = 1.0
    """Share of rows taken from this source, relative to the other sources' weights."""
    filters: tuple[AnyFilter, ...] = ()
    """Applied to its documents, in this order."""
    kind: Literal["tfds"] = "tfds"

    @property
    def location(self) -> str:
        return self.name

    def documents(self, cache_dir: str | None = None) -> Iterator[str]:
        """Prepares the data set (as ArrayRecord) first, if it is not prepared yet."""
        builder = prepare_builder(self.name, self.data_dir)
        return _records(builder, self.split, tuple(self.field.split("/")), self.name)

    def identify(self, cache_dir: str | None = None) -> Identity:
        """Hashes name, version, description, and the local files (none if stored in a bucket)."""
        builder = prepare_builder(self.name, self.data_dir)
        description = (builder.data_path / "dataset_info.json").read_bytes()
        digest = hashlib.blake2b(description, digest_size=16).hexdigest()
        splits = builder.info.splits.values()
        paths = [Path(os.fspath(name)) for split in splits for name in split.filepaths]
        files = [path for path in paths if path.is_file()]
        settings = ["tfds", f"{builder.info.full_name}:{digest}", self.split, self.field]
        return identify_files(settings, files, cache_dir, text=False)


def prepare_builder(name: str, data_dir: str | None) -> Any:
    """The TFDS builder of a data set, which is downloaded and prepared first if necessary.

    Raises:
      UserError: TFDS does not know the data set, or cannot prepare it.
    """
    if name.startswith("huggingface:"):
        raise UserError(name, "is a hub data set", "use a source of kind 'hub'")
    builder = _builder(name, data_dir)
    if not builder.is_prepared() and "://" not in str(builder.data_dir):
        with folder_lock(Path(builder.data_dir)):
            builder = _builder(name, data_dir)  # another process may have prepared it by now
            _download(builder, name)
    elif not builder.is_prepared():
        _download(builder, name)
    return builder


def _builder(name: str, data_dir: str | None) -> Any:
    with _quiet():
        import tensorflow_datasets as tfds

        try:
            return tfds.builder(name, data_dir=data_dir)
        except tfds.core.registered.DatasetNotFoundError as error:
            raise _unknown(name) from error
        except (ValueError, RuntimeError, AssertionError) as error:
            raise UserError(name, f"TFDS refuses it: {error}", "check the name") from error


def _download(builder: Any, name: str) -> None:
    import tensorflow_datasets as tfds

    with _quiet():
        try:
            if not builder.is_prepared():
                builder.download_and_prepare(file_format="array_record")
        except ImportError as error:
            reason = f"preparing it needs a package that is not installed ({error.name})"
            raise UserError(name, reason, "pip install 'llmjax[tfrecord]'") from error
        except (OSError, tfds.download.DownloadError) as error:
            fix = "check network and disk, or set data_dir"
            raise UserError(name, f"cannot be downloaded and prepared: {error}", fix) from error


def _unknown(name: str) -> UserError:
    import tensorflow_datasets as tfds

    names = tfds.list_builders(with_community_datasets=False)
    near = difflib.get_close_matches(name.split("/")[0].split(":")[0], names, n=3)
    fix = f"did you mean {' or '.join(near)}?" if near else "see tensorflow.org/datasets/catalog"
    return UserError(f"TFDS data set {name!r}", "is unknown to TFDS and not in its data_dir", fix)


def _records(builder: Any, split: str, field: tuple[str, ...], name: str) -> Iterator[str]:
    _check_field(builder, field, name)
    for record in read_examples(builder, split, name):
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


def read_examples(builder: Any, split: str, name: str) -> Iterator[Any]:
    """Yields the examples of a split, or of a slice of one, as nested dicts of NumPy values.

    Raises:
      UserError: there is no such split, or its files are damaged or of another format.
    """
    import tensorflow_datasets as tfds

    try:
        info = builder.info.splits[split]
    except (KeyError, ValueError) as error:
        fix = f"its splits: {', '.join(builder.info.splits)}"
        raise UserError(f"{name}, split {split!r}", "does not exist", fix) from error
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
        records = rows.__getitems__(list(range(start, min(start + count, len(rows)))))
        yield from records
        start += count
        largest = max(largest, *map(_num_bytes, records))
        count = max(1, min(READ_AHEAD, 2 * count, READ_AHEAD_BYTES // largest))


def _num_bytes(value: Any) -> int:
    """Approximate size of an example in bytes."""
    if isinstance(value, dict):
        return sum(map(_num_bytes, value.values()))
    if isinstance(value, list):
        return sum(map(_num_bytes, value))
    return len(value) if isinstance(value, bytes | str) else getattr(value, "nbytes", 8)


def _tfrecords(path: str) -> Iterator[bytes]:
    import grain

    try:
        yield from grain.experimental.TFRecordIterDataset(path)
    except ValueError as error:
        raise UserError(path, f"is damaged: {error}", "prepare the data set again") from error


@contextlib.contextmanager
def _quiet(bars: bool = True) -> Iterator[None]:
    """Keeps TFDS from printing to stdout, and without `bars` from drawing progress bars."""
    import tensorflow_datasets as tfds

    if not bars:
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
