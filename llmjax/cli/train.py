"""`llmjax train`."""

from collections.abc import Sequence
from dataclasses import replace

from llmjax.cli.arguments import FLAGS, Words, split
from llmjax.cli.help import help_text
from llmjax.cli.verb import checked
from llmjax.config import Config, load_config_file, presets, validate
from llmjax.config.overrides import HELP

USAGE = "llmjax train CONFIG [--field value ...]"
PROFILE = "profile"
TRAIN_FLAGS = FLAGS | {
    PROFILE: "Trace 5 steps into RUN/profile, for XProf or TensorBoard; --log.profile N traces N.",
}
ABOUT = (
    "Trains a model, or goes on where its run folder stands. CONFIG is a Python file with a "
    "function config() -> llmjax.Config, or the name of a preset: {presets}. Every field of it can "
    "be set here by its dotted name; `llmjax train CONFIG --help` lists them with CONFIG's values. "
    "Ctrl-C and SIGTERM finish the step, save, and exit with 75; the same command goes on."
)


def main(argv: Sequence[str]) -> int:
    """Trains; prints the run folder and its last held-out figures, or JSON."""
    words = split(argv, Config, TRAIN_FLAGS)
    if "help" in words.flags:
        config = load_config_file(words.positionals[0]) if words.positionals else Config()
        about = ABOUT.format(presets=", ".join(presets()))
        print(help_text(USAGE, about, TRAIN_FLAGS, config, HELP), end="")
        return 0
    config = resolve(words)
    from llmjax.train import train

    folder = train(config)
    print(folder)
    return 0


def resolve(words: Words) -> Config:
    """The config of a command line, checked; every mistake is told at once.

    Raises:
      UserError: the config file cannot be used.
      ConfigError: mistakes in the command line, or in the config that it makes.
    """
    config = load_config_file(words.positionals[0]) if words.positionals else Config()
    _, config = checked(words, ("CONFIG",), USAGE, config)
    if PROFILE in words.flags and not config.log.profile:
        config = replace(config, log=replace(config.log, profile=5))
    return validate(config)
