"""The commands: one file each, and one line here."""

from typing import NamedTuple


class Entry(NamedTuple):
    """A registered command.

    Attributes:
      target: "module:object" of its `command.Command`, imported on use.
      summary: its line in `llmjax --help`.
    """

    target: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "train": Entry("llmjax.cli.train:TRAIN", "train a model, or resume a run"),
    "plan": Entry("llmjax.cli.plan:PLAN", "memory, time and cost of a training, without devices"),
    "scale": Entry("llmjax.cli.scale:SCALE", "a ladder of runs, its scaling law, a prediction"),
    "skill": Entry("llmjax.cli.skill:SKILL", "what models can do, against their bits per byte"),
    "evaluate": Entry("llmjax.cli.evaluate:EVALUATE", "loss, perplexity and bits per byte of text"),
    "predict": Entry("llmjax.cli.predict:PREDICT", "predictions of a fine-tuned model for tables"),
    "choose": Entry("llmjax.cli.choose:CHOOSE", "zero-shot multiple choice by likelihood"),
    "harness": Entry("llmjax.cli.harness:HARNESS", "tasks of EleutherAI's lm-evaluation-harness"),
    "generate": Entry("llmjax.cli.generate:GENERATE", "text that continues prompts, streamed"),
    "chat": Entry("llmjax.cli.chat:CHAT", "a conversation in the terminal"),
    "serve": Entry("llmjax.cli.serve:SERVE", "an OpenAI-compatible HTTP server of runs"),
    "fill-mask": Entry("llmjax.cli.fill_mask:FILL_MASK", "the likeliest tokens for each mask"),
    "embed": Entry("llmjax.cli.embed:EMBED", "texts as vectors"),
    "index": Entry("llmjax.cli.index:INDEX", "documents as an index to search"),
    "search": Entry("llmjax.cli.search:SEARCH", "passages of an index, and answers from them"),
    "translate": Entry("llmjax.cli.translate:TRANSLATE", "documents, by a translation run"),
    "compress": Entry("llmjax.cli.compress:COMPRESS", "any bytes into an archive, lossless"),
    "decompress": Entry("llmjax.cli.decompress:DECOMPRESS", "an archive back into its bytes"),
    "inspect": Entry("llmjax.cli.inspect:INSPECT", "an archive's header, without the model"),
    "import": Entry("llmjax.cli.import_run:IMPORT", "a Hugging Face or GGUF model as a run folder"),
    "export": Entry("llmjax.cli.export:EXPORT", "a run as Hugging Face, PEFT, GGUF or StableHLO"),
    "report": Entry("llmjax.cli.report:REPORT", "a run as one offline HTML page"),
    "presets": Entry("llmjax.cli.presets:PRESETS", "the configs that come with llmjax"),
    "models": Entry("llmjax.cli.models:MODELS", "the models that can be imported, with sizes"),
    "runs": Entry("llmjax.cli.runs:RUNS", "the run folders here, with their best figures"),
    "completion": Entry("llmjax.cli.completion:COMPLETION", "completion for bash, zsh or fish"),
    "data": Entry("llmjax.cli.data:DATA", "prepare the token store of a run ahead of time"),
    "tokenizer": Entry("llmjax.cli.tokenizer:TOKENIZER", "train a tokenizer on text"),
}

SYNONYMS = {
    "finetune": "train",
    "fine-tune": "train",
    "pretrain": "train",
    "resume": "train",
    "eval": "evaluate",
    "test": "evaluate",
    "infer": "predict",
    "classify": "predict",
    "sample": "generate",
    "complete": "generate",
    "run": "chat",
    "encode": "embed",
    "download": "import",
    "pull": "import",
    "convert": "import",
    "quantize": "export",
    "save": "export",
    "configs": "presets",
    "retrieve": "search",
    "find": "search",
    "list": "runs",
    "ls": "runs",
}
"""Names that other programs give to a command, to suggest it."""
