"""Where rows with named columns are read: frozen values, cheap to import."""

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class FileTable:
    """CSV, TSV, JSONL or Parquet files, or JSON ones of SQuAD's form or with a list of objects; all
    but Parquet also .gz, .bz2, .xz and .zst."""

    paths: tuple[str, ...]
    """Files and globs (`**` goes through folders); the ending of the name tells the form."""
    columns: tuple[str, ...] = ()
    """Names of the columns of CSV and TSV files that do not begin with a line of names."""
    constants: tuple[tuple[str, str], ...] = ()
    """(column, value) pairs that every row of these files has besides."""
    kind: Literal["table"] = "table"


@dataclass(frozen=True)
class LinesTable:
    """Plain text files of equally many lines, side by side: line n of each makes row n."""

    paths: tuple[str, ...]
    """A file for each column; also .gz, .bz2, .xz and .zst."""
    columns: tuple[str, ...] = ("source", "target")
    """The columns' names."""
    constants: tuple[tuple[str, str], ...] = ()
    """(column, value) pairs that every row of these files has besides."""
    kind: Literal["lines"] = "lines"


@dataclass(frozen=True)
class TfdsTable:
    """A TensorFlow Datasets data set, read without TensorFlow; nested features have slashes in
    their columns' names, classes are spelt by name."""

    name: str
    """As TFDS spells it: name, name/config, name/config:version."""
    split: str = "train"
    """A split, or a slice of one: "train[:10%]"."""
    data_dir: str | None = None
    """Where TFDS keeps its data sets; None: TFDS's default (~/tensorflow_datasets)."""
    kind: Literal["tfds"] = "tfds"


Table: TypeAlias = FileTable | LinesTable | TfdsTable
