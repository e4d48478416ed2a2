"""Changes to a config by dotted name, as the command line spells them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from llmjax.run.config.build import ConfigError, build, plain
from llmjax.run.config.fields import (
    Path,
    annotation_at,
    flag,
    hints,
    kind,
    members,
    nearest,
    variants,
)
from llmjax.run.config.words import defaults, parse

T = TypeVar("T")

HELP = """\
--optimizer.learning-rate 3e-4         a field, by its dotted name
--mesh.fsdp=-1                         the same in one word
--model.window none                    nothing, where a field may be none
--model.gated, --model.gated false     a switch
--samples.prompts "One day" "The"      a list takes every word up to the next option
--optimizer muon                       another kind, with its own defaults ...
--optimizer.momentum 0.9               ... and its fields
--data.sources my.txt "more/*.jsonl"   your own files; the ending tells jsonl and parquet from text
--data.sources text:my.txt,split=line,weight=2 embedded
                                       kind:first field,field=value,...; mixed by weight
--data.sources.0.weight 3              a field of the first source
--tasks.0.train my.tsv more.jsonl      tables of the first task; fields of it as of a source
--tasks.0.train table:my.tsv,columns=text,label
                                       a file without a line of names: its columns
--tasks.0.dev lines:dev.en,dev.de      line n of one file beside line n of another
--model.lora.rank 16                   of a group that is none: the others at their defaults
--tokenizer my.model                   an existing SentencePiece model, or a tokenizer.json
"""


@dataclass(frozen=True)
class Override:
    """A field's dotted name as typed, without the dashes in front, and the words after it."""

    name: str
    words: tuple[str, ...]

    @property
    def path(self) -> Path:
        return tuple(self.name.replace("-", "_").split("."))


def override(value: T, overrides: Sequence[Override]) -> T:
    """`value`, a config dataclass, with these fields changed; the last of several wins.

    Raises:
      ConfigError: unknown names and values of a wrong type, all of them.
    """
    problems: list[str] = []
    wrong: list[Path] = []
    tree = {"": plain(value)}
    # Stable and shallow first: the choice of a kind comes before the fields of that kind.
    for change in sorted(overrides, key=lambda change: len(change.path)):
        if any(change.path[: len(outer)] == outer for outer in wrong):
            continue  # the kind is unknown, so its fields are too
        annotation = annotation_at(type(value), change.path)
        try:
            if annotation is None or not _set(tree, type(value), change, annotation):
                problems.append(unknown(change.name, value, tree[""]))
        except ValueError as error:
            problems.append(f"--{change.name}: {error}")
            wrong.append(change.path)
    if not problems:
        result: T = build(type(value), tree[""], "", problems)
    if problems:
        raise ConfigError(problems)
    return result


def unknown(name: str, value: Any, tree: Any) -> str:
    """The message for a field that is not there: the nearest one, or the kind that has it."""
    path = tuple(name.replace("-", "_").split("."))
    node = _at(tree, path[:-1])
    choices = variants(annotation_at(type(value), path[:-1]))
    having = [kind(cls) for cls in choices if path[-1] in hints(cls)]
    if having and isinstance(node, Mapping):
        has = f"{flag(path[:-1])} is {node.get('kind')}, which has no such field"
        return f"--{name}: {has}; {', '.join(having)} would"
    names = [name for name in _leaves(tree) if not name.endswith(".kind")]
    same = [known for known in names if known.split(".")[-1] == path[-1]]
    guess = nearest(".".join(path), same) or (same[0] if len(same) == 1 else None)
    guess = guess or nearest(".".join(path), names)
    hint = f"did you mean {flag((guess,))}?" if guess else "--help lists every field"
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


def _at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = _step(tree, key)
    return tree


def _set(tree: dict[str, Any], cls: type, change: Override, annotation: Any) -> bool:
    """Puts the parsed value into `tree[""]`; False when there is no such place in it.

    Raises:
      ValueError: the words mean no value of the field's type.
    """
    if change.path[-1] == "kind":  # --tokenizer.kind bytes means --tokenizer bytes
        change = Override(change.name.rpartition(".")[0], change.words)
        return _set(tree, cls, change, annotation_at(cls, change.path))
    *outer, last = ("", *change.path)
    node = _at(tree, tuple(outer))
    if node is None and (begun := _begun(cls, change.path[:-1])) is not None:
        node = _at(tree, tuple(outer[:-1]))[outer[-1]] = begun
    if isinstance(node, list) and last.isdecimal() and int(last) < len(node):
        node[int(last)] = parse(annotation, change.words)
    elif isinstance(node, dict) and last in node:
        node[last] = parse(annotation, change.words)
    else:
        return False
    return True


def _begun(cls: type, path: Path) -> dict[str, Any] | None:
    """The defaults of a group that may be none; None where there is no such group at `path`."""
    annotation = annotation_at(cls, path)
    classes = variants(annotation)
    if len(classes) != 1 or type(None) not in members(annotation):
        return None
    return defaults(classes[0])


def _step(node: Any, key: str) -> Any:
    if isinstance(node, dict):
        return node.get(key)
    if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
        return node[int(key)]
    return None
