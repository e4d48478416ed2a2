"""`llmjax embed`."""

import sys
from dataclasses import replace

from llmjax.cli.command import Call, Command, Output, print_json
from llmjax.errors import UserError
from llmjax.inference.embed import EmbedOptions, all_texts, embed


def run(call: Call[EmbedOptions]) -> Output | None:
    """Embeds; writes a file, or JSON lines."""
    name, options = call.words[0], call.options
    texts = all_texts(options)
    if not texts:
        raise UserError("embed", "there is no text", "give --text TEXT or --file FILE")
    # Standard input, as --file -, can be read only once.
    vectors = embed(name, options=replace(options, text=tuple(texts), file=None))
    if options.out is not None:
        size = {"texts": len(texts), "width": vectors.shape[1]}
        text = f"{options.out}: {size['texts']} vectors of {size['width']} numbers"
        if not call.as_json:
            print(text, file=sys.stderr)
            return None
        return Output({"run": name, **size, "out": options.out}, text)
    rows = vectors.tolist()
    if call.as_json:
        return Output({"run": name, "texts": texts, "vectors": rows}, "")
    for text, vector in zip(texts, rows, strict=True):
        print_json({"text": text, "vector": vector})
    return None


EMBED = Command(
    about="Text embeddings: a JSON object {text, vector} a line, or one array in a file. Works "
    "with encoders and decoders.",
    positionals=("RUN",),
    usage="--file FILE [--out VECTORS.npy] [--option value ...]",
    options=EmbedOptions,
    run=run,
    single=("text",),
)
