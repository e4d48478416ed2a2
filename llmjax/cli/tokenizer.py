"""`llmjax tokenizer train`."""

from dataclasses import dataclass, field

from llmjax.cli.command import Call, Command, Output
from llmjax.data.config import DataConfig
from llmjax.data.progress import terminal_progress
from llmjax.data.text.corpus import train_tokenizer
from llmjax.data.tokenizers.config import SentencePieceConfig


@dataclass(frozen=True)
class Options:
    """Options of tokenizer train, those of `train_tokenizer`."""

    data: DataConfig = field(default_factory=DataConfig)
    """What is read; the validation documents are left out."""
    tokenizer: SentencePieceConfig = field(default_factory=SentencePieceConfig)
    """What is trained."""


def run(call: Call[Options]) -> Output:
    """Trains the tokenizer; prints its folder, size and fingerprint."""
    folder, options = call.words[0], call.options
    with terminal_progress() as progress:
        trained = train_tokenizer(options.tokenizer, options.data, folder, progress)
    facts = {"vocab_size": trained.vocab_size, "fingerprint": trained.fingerprint}
    text = f"{folder}: {trained.vocab_size} tokens, fingerprint {trained.fingerprint}"
    return Output({"tokenizer": folder, **facts}, text)


TOKENIZER = Command(
    about="Trains a SentencePiece model (lossless: every text comes back byte for byte) and writes "
    "it to a folder. `llmjax train` does this on its own; use it to share one tokenizer between "
    "runs: llmjax train CONFIG --tokenizer FOLDER/sentencepiece.model",
    positionals=("train", "FOLDER"),
    usage="[--data.sources FILE ...] [--tokenizer.vocab-size N]",
    options=Options,
    run=run,
    compiles=False,
)
