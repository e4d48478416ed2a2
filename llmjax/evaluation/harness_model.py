"""The adapter of runs to EleutherAI's lm-evaluation-harness."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, TypeVar

from llmjax.data.chat_template.template import ChatTemplate, special_tokens
from llmjax.decoding.config import DecodingConfig
from llmjax.errors import UserError
from llmjax.inference.language_model import LanguageModel, load
from llmjax.scoring.continuations import score_continuations

try:
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from tqdm import tqdm
except ImportError as error:
    fix = 'pip install "llmjax[lm-eval]"'
    raise UserError("the evaluation harness", f"is not installed ({error})", fix) from error


log = logging.getLogger(__name__)
Number = TypeVar("Number", int, float)
# The harness's names -> fields of DecodingConfig; others are logged and ignored.
FIELDS = {
    "num_beams": "beams",
    "length_penalty": "length_penalty",
    "repetition_penalty": "repetition_penalty",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "seed": "seed",
}
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
SAMPLING = ("temperature", "top_k", "top_p", "min_p")


@register_model("llmjax")
class HarnessModel(TemplateLM):
    """A run as a model of the harness.

    Attributes:
      lm: the loaded model.
      max_length: maximum tokens of context; longer texts are truncated on the left.
      max_gen_toks: maximum tokens to generate if the task sets no limit.
      batch_size: rows per batch.
      quiet: whether to show no progress bars.
    """

    def __init__(
        self,
        run: str | PathLike[str] | LanguageModel,
        *,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        quiet: bool = False,
        **loading: Any,
    ):
        """Load a run, or take a loaded model.

        Args:
          run: a run folder, or a loaded model.
          batch_size: rows per batch; None or "auto": 16.
          max_batch_size: upper limit of "auto".
          device: accepted from the harness, and ignored: JAX chooses.
          max_length: see above; None: the model's context.
          max_gen_toks: see above.
          quiet: see above.
          **loading: see llmjax.load.

        Raises:
          UserError: no such run or step, or a model without decoder.
        """
        super().__init__()
        self.lm = run if isinstance(run, LanguageModel) else load(run, **loading)
        config = self.lm.model.config
        if not config.num_decoder_layers:
            raise UserError("this model", "has no decoder", "the harness needs one")
        longest = config.max_length if max_length is None else max_length
        if not 2 <= longest <= config.max_length:
            reason, fix = "does not fit the model", f"choose 2 to {config.max_length}"
            raise UserError(f"max_length {longest}", reason, fix)
        self.max_length, self.max_gen_toks, self.quiet = longest, max_gen_toks, quiet
        auto = batch_size is None or str(batch_size).startswith("auto")
        self.batch_size = min(16, max_batch_size or 16) if auto else int(batch_size or 0)
        if self.batch_size < 1:
            raise UserError(f"batch_size {batch_size}", "is not positive")
        self.backend = "seq2seq" if config.is_encoder_decoder else "causal"
        self._template: ChatTemplate | None = None

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        return self.lm.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """The token before a text."""
        return self.lm.tokenizer.bos_id

    @property
    def tokenizer_name(self) -> str:
        """Key of the tokenizer in the harness's caches."""
        return f"llmjax-{self.lm.tokenizer.fingerprint}"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Encode a text, with the model's special tokens unless disabled."""
        tokenizer = self.lm.tokenizer
        ids, prefix = tokenizer.encode_marked(string), list(tokenizer.prefix)
        if add_special_tokens is False:
            return ids
        if self.backend == "seq2seq":
            return tokenizer.wrap(ids)[0]
        has_prefix = add_special_tokens is None and prefix and ids[: len(prefix)] == prefix
        return ids if has_prefix else [*prefix, *ids]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Score full texts from BOS; long ones in windows, each token once."""
        windows, counts = [], []
        for (text,) in (request.args for request in requests):
            rolling = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            disjoint = [(None, *utils.make_disjoint_window(pair)) for pair in rolling]
            windows += disjoint
            counts.append(len(disjoint))
        totals = iter(self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm))
        sums = [sum(next(totals)[0] for _ in range(count)) for count in counts]
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score continuations of texts."""
        scored: list[tuple[float, bool]] = super().loglikelihood(
            requests, disable_tqdm=disable_tqdm or self.quiet
        )
        return scored

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        limit = self.max_length
        pairs = [(prefix[-limit:], tokens) for _, prefix, tokens in requests]
        if self.backend == "causal":
            pairs = [
                (prefix[-max(1, limit + 1 - len(tokens)) :], tokens) for prefix, tokens in pairs
            ]
        stream = score_continuations(
            self.lm.model,
            self.lm.params,
            pairs,
            bos_id=self.prefix_token_id,
            batch_size=self.batch_size,
            mesh=self.lm.mesh,
        )
        hidden = disable_tqdm or self.quiet
        bar = tqdm(stream, "Log-likelihoods", total=len(pairs), disable=hidden)
        answers = [(likelihood.total, likelihood.greedy) for likelihood in bar]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Continue each text up to its stop strings; requests with equal settings share batches."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        texts = [""] * len(requests)
        hidden = disable_tqdm or self.quiet
        with tqdm(desc="Texts", total=len(requests), disable=hidden) as bar:
            for numbers in groups.values():
                config = decoding(requests[numbers[0]].args[1], self.max_gen_toks, self.batch_size)
                prompts = [self._prompt(requests[n].args[0], config) for n in numbers]
                for row, text in self._generate(prompts, config):
                    request = requests[numbers[row]]
                    texts[numbers[row]] = text
                    self.cache_hook.add_partial("generate_until", request.args, text)
                    bar.update()
        return texts

    def _generate(
        self, prompts: Sequence[Sequence[int]], config: DecodingConfig
    ) -> Iterable[tuple[int, str]]:
        return (
            (piece.row, piece.completion.text)
            for piece in self.lm.complete(prompts, config)
            if piece.completion is not None
        )

    def _prompt(self, text: str, config: DecodingConfig) -> list[int]:
        limit = self.max_length
        if self.backend == "causal":
            limit = max(1, limit - config.max_new_tokens)
        return self.tok_encode(text)[-limit:] or [self.prefix_token_id]

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the model's chat template if requested."""
        return self.lm.tokenizer.chat_template if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render messages; without a generation prompt the last message is left open.

        Raises:
          UserError: the model has no template, or it rejects the messages.
        """
        tokenizer = self.lm.tokenizer
        if tokenizer.chat_template is None:
            raise UserError("the chat template", "this model has none", "evaluate it without")
        if self._template is None:
            names = special_tokens(tokenizer)
            self._template = ChatTemplate(tokenizer.chat_template, names)
        text = self._template.render(chat_history, add_generation_prompt=add_generation_prompt)
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"].strip()
        return text[: text.rindex(last) + len(last)]


def decoding(kwargs: Mapping[str, Any], max_new_tokens: int, batch_size: int) -> DecodingConfig:
    """Convert a task's generation_kwargs to a DecodingConfig: greedy unless sampling is enabled.

    Args:
      kwargs: of one request.
      max_new_tokens: the limit if the task sets none.
      batch_size: texts per batch.

    Raises:
      UserError: a value is not a number.
    """
    fields, until = dict(kwargs), kwargs.get("until") or []
    temperature = _number(float, "temperature", fields.pop("temperature", 0.0) or 0.0)
    samples = fields.pop("do_sample", None)
    samples = temperature > 0 if samples is None else samples
    limits = [_number(int, name, fields.pop(name)) for name in LENGTHS if name in fields]
    fields.pop("until", None)
    settings = {FIELDS[name]: fields.pop(name) for name in list(fields) if name in FIELDS}
    if not samples:
        settings = {name: value for name, value in settings.items() if name not in SAMPLING}
    if fields:
        log.warning("unsupported generation settings, ignored: %s", ", ".join(fields))
    return DecodingConfig(
        max_new_tokens=limits[0] if limits else max_new_tokens,
        temperature=(temperature or 1.0) if samples else 0.0,
        stop=tuple(filter(None, [until] if isinstance(until, str) else until)),
        batch_size=batch_size,
        **{name: value for name, value in settings.items() if value is not None},
    )


def _number(kind: Callable[[Any], Number], name: str, value: Any) -> Number:
    try:
        return kind(value)
    except (OverflowError, TypeError, ValueError) as error:
        where = f"generation_kwargs, {name}"
        raise UserError(where, f"{repr(value)[:40]} is not a number", "fix the task") from error
