"""`llmjax embed`."""

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llmjax.cli.options import ModelOptions
from llmjax.cli.verb import Verb, print_json
from llmjax.errors import UserError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class _Texts:
    """What is embedded, and how."""

    text: tuple[str, ...] = ()
    """A text; give it again for more."""
    file: str | None = None
    """More texts, one a line; - for standard input; .jsonl for texts of several lines, as JSON
    strings or objects with "text"."""
    out: str | None = None
    """An .npy file for the vectors, float32 [texts, width]; none: a JSON line for each on stdout,
    or in a .jsonl file."""
    pooling: Literal["mean", "cls", "last", "max", "mean_sqrt", "weighted_mean"] | None = None
    """The mean of the tokens' states, the first or the last one, and others; none: as the model was
    published, else the mean, and a decoder's last."""
    normalize: bool | None = None
    """Whether vectors have length 1; none: as the model was published, else no."""
    prompt: str | None = None
    """The name of a prompt that the model was published with, to put before each text; "" for none;
    none given: the one that it was published to have."""
    batch_size: int = 32
    """Texts read at once."""


@dataclass(frozen=True)
class Options(ModelOptions, _Texts):
    """Options of embed."""


VERB = Verb(
    usage="llmjax embed RUN --file FILE [--out VECTORS.npy] [--option value ...]",
    about="Lines of text as vectors: {text, vector} as JSON, a line each, or one array in a file. "
    "Works with encoders, and with decoders too.",
    names=("RUN",),
    options=Options(),
    single=("text",),
)


def main(argv: Sequence[str]) -> int:
    """Embeds; writes a file, or JSON lines."""
    parsed = VERB.parse(argv)
    if parsed is None:
        return 0
    options, run = parsed.options, parsed.positionals[0]
    texts = [*options.text, *(_texts(options.file) if options.file is not None else [])]
    if not texts:
        raise UserError("embed", "there is no text", "give --text TEXT or --file FILE")
    out = None if options.out is None else Path(options.out).expanduser()
    if out is not None and out.suffix not in (".npy", ".jsonl"):
        raise UserError(out, "is neither .npy nor .jsonl", "name it so")
    from llmjax.inference.embed import embed
    from llmjax.parallel.compilation import enable_compilation_cache

    enable_compilation_cache()
    vectors = embed(
        run,
        texts,
        pooling=options.pooling,
        normalize=options.normalize,
        prompt=options.prompt,
        batch_size=options.batch_size,
        **options.loading(),
    )
    rows = zip(texts, vectors.tolist(), strict=True)
    as_json = "json" in parsed.flags
    if out is not None:
        _write(out, texts, vectors)
        facts = {"run": run, "texts": len(texts), "width": vectors.shape[1], "out": str(out)}
        if as_json:
            print_json(facts)
        else:
            print(f"{out}: {len(texts)} vectors of {vectors.shape[1]} numbers", file=sys.stderr)
    elif as_json:
        print_json({"run": run, "texts": texts, "vectors": [vector for _, vector in rows]})
    else:
        for text, vector in rows:
            print_json({"text": text, "vector": vector})
    return 0


def _texts(file: str) -> list[str]:
    from llmjax.inference.generate import read_prompts

    return read_prompts(file, "text")


def _write(out: Path, texts: Sequence[str], vectors: "np.ndarray") -> None:
    import numpy as np

    from llmjax.storage.cache_folders import write_file
    from llmjax.storage.json_text import json_text

    content = io.BytesIO()
    if out.suffix == ".npy":
        np.save(content, vectors)
    else:
        for text, vector in zip(texts, vectors.tolist(), strict=True):
            line = json_text({"text": text, "vector": vector})
            content.write(f"{line}\n".encode())
    write_file(out, content.getvalue())
