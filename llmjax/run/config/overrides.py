"""Overrides of config fields by dotted name, as on the command line."""

import dataclasses
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import ValidationError

from llmjax.data.text.reading import DECOMPRESSORS
from llmjax.data.text.text_files import TextSource
from llmjax.run.config.build import ConfigError, build, leaf_type, plain, shown
from llmjax.run.config.fields import (
    Path,
    annotation_at,
    article,
    element,
    flag,
    hints,
    is_untagged,
    kind,
    members,
    nearest,
    variants,
)

T = TypeVar("T")

HELP = """\
--optimizer.learning-rate 3e-4         a field, by its dotted name
--mesh.fsdp=-1                         the same in one word
--model.window none                    no value, for an optional field
--model.gated, --model.gated false     a switch
--samples.prompts "One day" "The"      a list takes every word up to the next option
--optimizer muon                       another kind, with its own defaults ...
--optimizer.momentum 0.9               ... and its fields
--data.sources my.txt "more/*.jsonl"   your own files; the ending tells jsonl and parquet from text
--data.sources text:my.txt,split=line,weight=2 embedded
                                       kind:first field,field=value,...; mixed by weight
--data.sources.0.weight 3              a field of the first source
--data.stages 600,length=512,batch-size=8 900,weights=1,3
                                       first field,field=value,... of each stage of the run
--tasks.0.train my.tsv more.jsonl      tables of the first task; with fields, as for sources:
--tasks.0.train table:my.tsv,columns=text,label
                                       the column names of a file without a header
--tasks.0.dev lines:dev.en,dev.de      line n of one file beside line n of another
--model.lora.rank 16                   a field of an optional section; the others get defaults
--tokenizer my.model                   an existing SentencePiece model, or a tokenizer.json
"""


@dataclass(frozen=True)
class Override:
    """A field's dotted name as typed, without leading dashes, and the words after it."""

    name: str
    words: tuple[str, ...]

    @property
    def path(self) -> Path:
        return tuple(self.name.replace("-", "_").split("."))


def override(value: T, overrides: Sequence[Override], aliases: Collection[str] = ()) -> T:
    """Returns `value`, a config dataclass, with these fields replaced; the last of several wins.

    Args:
      value: a config dataclass.
      overrides: the fields and their words.
      aliases: short names that the caller understands, to suggest.

    Raises:
      ConfigError: all unknown names and all values of a wrong type.
    """
    problems: list[str] = []
    failed: list[Path] = []
    tree = {"": plain(value)}
    # Stable and shallow first: a kind is chosen before its fields are set.
    for change in sorted(overrides, key=lambda change: len(change.path)):
        if any(change.path[: len(outer)] == outer for outer in failed):
            continue  # the kind is unknown, so its fields are too
        annotation = annotation_at(type(value), change.path)
        try:
            if annotation is None or not _set(tree, type(value), change, annotation):
                problems.append(unknown(change.name, value, tree[""], aliases))
        except ValueError as error:
            problems.append(f"--{change.name}: {error}")
            failed.append(change.path)
    if not problems:
        result: T = build(type(value), tree[""], "", problems)
    if problems:
        raise ConfigError(problems)
    return result


def unknown(name: str, value: Any, tree: Any, aliases: Collection[str] = ()) -> str:
    """The message for an unknown field, with the nearest one, or the kinds that have it."""
    path = tuple(name.replace("-", "_").split("."))
    node = _get(tree, path[:-1])
    choices = variants(annotation_at(type(value), path[:-1]))
    kinds = [kind(cls) for cls in choices if path[-1] in hints(cls)]
    if kinds and isinstance(node, Mapping):
        reason = f"{flag(path[:-1])} is {node.get('kind')}, which has no such field"
        return f"--{name}: {reason}; {', '.join(kinds)} would"
    names = [name for name in _leaves(tree) if not name.endswith(".kind")]
    same_end = [known for known in names if known.split(".")[-1] == path[-1]]
    guess = nearest(".".join(path), same_end) or (same_end[0] if len(same_end) == 1 else None)
    guess = guess or nearest(".".join(path), [*names, *aliases])
    hint = f"did you mean {flag((guess,))}?" if guess else "--help all lists every field"
    return f"--{name}: no such field; {hint}"


def _leaves(tree: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted name in a tree of plain data."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(tree, Mapping):
        items = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree)
    for key, inner in items:
        yield f"{prefix}{key}"
        yield from _leaves(inner, f"{prefix}{key}.")


def _get(tree: Any, path: Path) -> Any:
    """The node at `path`; None if there is none."""
    for key in path:
        tree = _child(tree, key)
    return tree


def _set(tree: dict[str, Any], cls: type, change: Override, annotation: Any) -> bool:
    """Parses the value and sets it in `tree[""]`; returns False if there is no such field.

    Raises:
      ValueError: the words are no value of the field's type.
    """
    if change.path[-1] == "kind":  # --tokenizer.kind bytes means --tokenizer bytes
        change = Override(change.name.rpartition(".")[0], change.words)
        return _set(tree, cls, change, annotation_at(cls, change.path))
    *outer, last = ("", *change.path)
    node = _get(tree, tuple(outer))
    if node is None and (section := _new_section(cls, change.path[:-1])) is not None:
        node = _get(tree, tuple(outer[:-1]))[outer[-1]] = section
    if isinstance(node, list) and last.isdecimal() and int(last) < len(node):
        node[int(last)] = parse(annotation, change.words)
    elif isinstance(node, dict) and last in (fields := _fields_of(cls, change.path[:-1], node)):
        node[last] = parse(fields[last], change.words)  # of its kind: another's may differ
    else:
        return False
    return True


def _fields_of(cls: type, path: Path, node: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the section at `path`, of its kind."""
    classes = variants(annotation_at(cls, path))
    tags = {kind(variant): variant for variant in classes}
    return hints(tags[node["kind"]] if len(classes) > 1 else classes[0])


def _new_section(cls: type, path: Path) -> dict[str, Any] | None:
    """The defaults of an optional section; None if there is no such section at `path`."""
    annotation = annotation_at(cls, path)
    classes = variants(annotation)
    if len(classes) != 1 or type(None) not in members(annotation):
        return None
    return defaults(classes[0])


def _child(node: Any, key: str) -> Any:
    if isinstance(node, dict):
        return node.get(key)
    if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
        return node[int(key)]
    return None


def parse(annotation: Any, words: tuple[str, ...]) -> Any:
    """Parses the words for a field of this type as plain data.

    Raises:
      ValueError: they are no value of it; the message says what is expected.
    """
    if (item := element(annotation)) is not None:
        return _merge([_choice(item, word) for word in words])
    is_none = len(words) == 1 and words[0].lower() in ("none", "null")
    if is_none and type(None) in members(annotation):
        return None
    classes = variants(annotation)
    if not classes:
        return _plain_value(annotation, words)
    if len(classes) == 1 and type(None) in members(annotation) and words == (kind(classes[0]),):
        return defaults(classes[0])
    if len(classes) == 1:
        names = ", ".join(name.replace("_", "-") for name in hints(classes[0]))
        raise ValueError(f"is a section; set one of its fields: {names}")
    if len(words) != 1:
        raise ValueError(f"expected one of {_kinds(classes)}")
    return _choice(annotation, words[0])


def is_list(annotation: Any) -> bool:
    """Whether a field of this type holds several values."""
    return any(_is_tuple(member) for member in members(annotation))


def _plain_value(annotation: Any, words: tuple[str, ...]) -> Any:
    if not words and bool in members(annotation):
        words = ("true",)
    if len(words) != 1 and not is_list(annotation):
        problem = "has no value" if not words else f"has {len(words)} values"
        raise ValueError(f"{problem}; expected {article(annotation)}")
    try:
        value: Any = _in_groups(annotation, words) if is_list(annotation) else words[0]
        return leaf_type(annotation).validate_python(value, strict=False)
    except ValidationError as error:
        raise ValueError(f"{shown(' '.join(words))} is not {article(annotation)}") from error


def _in_groups(annotation: Any, words: tuple[str, ...]) -> tuple[Any, ...]:
    """The words of a list, grouped if its items are tuples of fixed length."""
    (item, *_) = typing.get_args(next(m for m in members(annotation) if _is_tuple(m)))
    size = len(typing.get_args(item)) if _is_tuple(item) else 1
    if size == 1 or len(words) % size:
        return words
    return tuple(words[start : start + size] for start in range(0, len(words), size))


def _is_tuple(annotation: Any) -> bool:
    return typing.get_origin(annotation) is tuple


def _choice(annotation: Any, word: str) -> dict[str, Any]:
    """Parses `kind`, `kind:first,field=value` or a file name to a dataclass, as plain data; a list
    takes all values up to the next field: `kind:first,second,field=value,value`. A dataclass that
    is not one of several kinds has just its fields: `first,field=value`."""
    classes = {kind(cls): cls for cls in variants(annotation)}
    if is_untagged(annotation):
        ((name, cls),) = classes.items()
        return _with_fields(cls, name, word, word.split(","))
    head, colon, rest = word.partition(":")
    near = nearest(head, classes)
    if head not in classes:
        by_file = _by_file(word, classes.values())
        if by_file is not None and not (colon and near):
            return typing.cast(dict[str, Any], plain(by_file))
        hint = f"did you mean {near}?" if near else f"choose one of {_kinds(classes.values())}"
        raise ValueError(f"{word!r} is not one of its kinds; {hint}")
    return _with_fields(classes[head], head, word, rest.split(",") if colon else [])


def _with_fields(cls: type, head: str, word: str, parts: list[str]) -> dict[str, Any]:
    """The defaults of a dataclass, called `head`, with fields from the parts of a word."""
    node = defaults(cls)
    for key, values in _split_fields(cls, head, word, parts).items():
        node[key] = parse(hints(cls)[key], tuple(values))
    return node


def _split_fields(cls: type, head: str, word: str, parts: list[str]) -> dict[str, list[str]]:
    """The words for each field of a variant, from the parts after its kind.

    Raises:
      ValueError: a part belongs to no field.
    """
    values: dict[str, list[str]] = {}
    last = ""
    for part in parts:
        key, equals, text = part.partition("=")
        if not equals and last and is_list(hints(cls)[last]):
            values[last].append(part)
            continue
        if not equals and last:
            raise ValueError(f"{part!r} in {word!r} is not field=value")
        if not equals:
            key, text = next(iter(hints(cls))), part
        key = last = key.replace("-", "_")
        if key not in hints(cls):
            near = nearest(key, hints(cls))
            hint = f"; did you mean {near}?" if near else ""
            raise ValueError(f"{head} has no field {key!r}{hint}")
        values[key] = [text]
    return values


def _by_file(word: str, classes: Collection[type]) -> Any:
    """An instance of the class that reads files of this name; None if the word names no file."""
    name = word.lower()
    for ending in DECOMPRESSORS:
        name = name.removesuffix(ending)
    for cls in classes:
        if name.endswith(getattr(cls, "endings", ())):
            return cls(paths=(word,)) if "paths" in hints(cls) else cls(path=word)
    if TextSource in classes and (any(mark in word for mark in "./*?") or FilePath(word).exists()):
        return TextSource(paths=(word,))
    return None


def _merge(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merges adjacent sources that differ only in their paths.

    So files that a shell's glob expands to are read in proportion to their sizes, as if the glob
    were quoted, instead of a row from each in turn.
    """
    merged: list[dict[str, Any]] = []
    for node in nodes:
        last = merged[-1] if merged else {}
        if "paths" in node and {**node, "paths": ()} == {**last, "paths": ()}:
            last["paths"] = [*last["paths"], *node["paths"]]
        else:
            merged.append(node)
    return merged


def defaults(cls: type) -> dict[str, Any]:
    """The defaults of a dataclass as plain data, without fields that have none."""
    result: dict[str, Any] = {}
    for item in dataclasses.fields(cls):
        if item.default is not dataclasses.MISSING:
            result[item.name] = plain(item.default)
        elif item.default_factory is not dataclasses.MISSING:
            result[item.name] = plain(item.default_factory())
    return result


def _kinds(classes: Collection[type]) -> str:
    return ", ".join(kind(cls) for cls in classes)
