"""`llmjax tokenizer train`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmjax.cli.verb import Verb, print_json
from llmjax.data.config import DataConfig
from llmjax.data.tokenizers.config import SentencePieceConfig
from llmjax.errors import UserError


@dataclass(frozen=True)
class Options:
    """Options of tokenizer train."""

    data: DataConfig = field(default_factory=DataConfig)
    """What is read; the held-out documents are left out."""
    tokenizer: SentencePieceConfig = field(default_factory=SentencePieceConfig)
    """What is trained."""


VERB = Verb(
    usage="llmjax tokenizer train FOLDER [--data.sources FILE ...] [--tokenizer.vocab-size N]",
    about="Trains a SentencePiece model (lossless: every text comes back byte for byte) and writes "
    "it to a folder. `llmjax train` does this on its own; use it to share one tokenizer between "
    "runs: llmjax train CONFIG --tokenizer FOLDER/sentencepiece.model",
    names=("FOLDER",),
    options=Options(),
)


def main(argv: Sequence[str]) -> int:
    """Trains the tokenizer; prints its folder, size and fingerprint."""
    if argv[:1] != ["train"] and not {"-h", "--help"} & set(argv):
        given = argv[0] if argv else "nothing"
        raise UserError(f"tokenizer {given}", "no such verb", f"usage: {VERB.usage}")
    parsed = VERB.parse(argv[1:] if argv[:1] == ["train"] else argv)
    if parsed is None:
        return 0
    from llmjax.data.progress import terminal_progress
    from llmjax.data.text.corpus import train_tokenizer

    folder, options = parsed.positionals[0], parsed.options
    with terminal_progress() as progress:
        trained = train_tokenizer(options.tokenizer, options.data, folder, progress)
    if "json" in parsed.flags:
        facts = {"vocab_size": trained.vocab_size, "fingerprint": trained.fingerprint}
        print_json({"tokenizer": folder, **facts})
    else:
        print(f"{folder}: {trained.vocab_size} tokens, fingerprint {trained.fingerprint}")
    return 0
