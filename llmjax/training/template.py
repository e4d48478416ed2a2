"""A chat template for models that learn to chat and had none."""

from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.data.tokenizers.folder import keep_chat_template
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.tasks.conversations import PLAIN


def with_template(tokenizer: Tokenizer, config: Config, run: Run) -> Tokenizer:
    """The run's tokenizer; with a template, kept beside it, where conversations are learnt.

    Raises:
      UserError: the run's folder cannot be written.
    """
    chats = any(task.uses_chat_template for task in config.tasks)
    if not chats or tokenizer.chat_template is not None:
        return tokenizer
    keep_chat_template(run.tokenizer, PLAIN)
    return load_tokenizer(run.tokenizer)
