from dataclasses import dataclass

import pytest

from llmjax.cli.arguments import check_positionals, split
from llmjax.run.config.build import ConfigError


@dataclass(frozen=True)
class Options:
    names: tuple[str, ...] = ()
    width: int = 3
    wide: bool = False


def parsed(line: str, **settings) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    words = split(line.split(), Options, **settings)
    return words.positionals, {change.name: change.words for change in words.overrides}


@pytest.mark.parametrize(
    ("line", "positionals", "options"),
    [
        ("a b", ("a", "b"), {}),
        ("--width 4 a", ("a",), {"width": ("4",)}),
        ("--width=4 a", ("a",), {"width": ("4",)}),
        ("--width -4 a", ("a",), {"width": ("-4",)}),
        ("--width= a", ("a",), {"width": ("",)}),
        ("--width --wide", (), {"width": (), "wide": ()}),
        ("--width 4 --width 5", (), {"width": ("5",)}),
        ("--wide a", ("a",), {"wide": ()}),
        ("--wide false a", ("a",), {"wide": ("false",)}),
        ("--no-wide a", ("a",), {"wide": ("false",)}),
        ("--names a b --wide c", ("c",), {"names": ("a", "b"), "wide": ()}),
        ("--names a --names b", (), {"names": ("a", "b")}),
        ("--unknown 3 a", ("a",), {"unknown": ("3",)}),
        ("--width 4 -- --a b", ("--a", "b"), {"width": ("4",)}),
        ("--width --1 a", ("a",), {"width": ("--1",)}),
        ("--names --1 --- - -a --wide", (), {"names": ("--1", "---", "-", "-a"), "wide": ()}),
        ("--names=--wide --1", ("--1",), {"names": ("--wide",)}),
    ],
)
def test_options_take_what_their_types_want(line, positionals, options):
    assert parsed(line) == (positionals, options)


def test_lists_that_take_one_word_at_a_time_leave_the_next():
    assert parsed("--names a b --names c", single=("names",)) == (("b",), {"names": ("a", "c")})


def test_dashes_and_underscores_are_the_same_option():
    assert len(split(["--a-b.c-d", "1", "--a_b.c_d", "2"], Options).overrides) == 1


def test_flags_stand_apart():
    words = split(["--json", "x", "-h"], Options)
    assert (words.positionals, words.flags) == (("x",), {"json", "help"})


def test_positionals_are_counted():
    words = split(["a", "b"], Options)
    assert check_positionals(words, ("ONE", "TWO"), "usage") == ("a", "b")
    with pytest.raises(ConfigError, match="THREE: missing"):
        check_positionals(words, ("ONE", "TWO", "THREE"), "usage")
    with pytest.raises(ConfigError, match="b: unexpected"):
        check_positionals(words, ("ONE",), "usage")


@pytest.mark.parametrize("line", ["--width --odd", "--names --odd", "--width --odd=1"])
def test_a_value_that_looks_like_an_option_is_explained(line):
    option, value = line.split()
    with pytest.raises(ConfigError, match="has no value") as caught:
        parsed(line)
    assert str(caught.value).endswith(f"write {option}={value}")
    assert parsed(f"{option}={value}")[1] == {option[2:]: (value,)}
