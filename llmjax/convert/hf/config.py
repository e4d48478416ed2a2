"""Read a published config.json: every field is type- and range-checked, and none is ignored.

The file is untrusted: a number out of range could create lists or arrays of any size before any
tensor is read. A field that no family reads is refused by name, unless it cannot affect inference.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.storage.json_documents import read_json

MAX_LAYERS = 10_000
"""Lists of this length are created before any tensor is read."""
MAX_SIZE = 2**24
"""Upper limit of widths, heads, vocabularies and tables."""
MAX_POSITIONS = 2**30
"""Positions are int32; an import allocates nothing of this length."""
MAX_INTEGER = 2**31 - 1
"""Upper limit of integers that are not in RANGES."""
MAX_SHOWN = 60
"""Characters quoted from a file in a message."""


@dataclass(frozen=True)
class Range:
    """Numbers from `lowest` to `highest`; `open` excludes `lowest`."""

    lowest: float
    highest: float = math.inf
    open: bool = False

    def problem(self, value: float) -> str:
        """Why a number is out of range; "" if it is not."""
        if value < self.lowest or (self.open and value == self.lowest):
            return f"it must be {'above' if self.open else 'at least'} {self.lowest:g}"
        if value > self.highest:
            return f"it must be at most {self.highest:,.10g}"
        return ""


RANGES: dict[str, Range] = {
    name: limits
    for names, limits in (
        (
            "num_hidden_layers num_layers num_decoder_layers n_layer n_layers "
            "sliding_window_pattern global_attn_every_n_layers no_rope_layer_interval "
            "decoder_sparse_step full_attention_interval interleave_moe_layer_step",
            Range(1, MAX_LAYERS),
        ),
        (
            "max_window_layers first_k_dense_replace num_nextn_predict_layers",
            Range(0, MAX_LAYERS),
        ),
        (
            "vocab_size type_vocab_size hidden_size d_model dim n_embd intermediate_size "
            "intermediate_size_mlp hidden_dim d_ff n_inner head_dim d_kv num_attention_heads "
            "num_key_value_heads "
            "num_heads n_heads n_head relative_attention_num_buckets kv_lora_rank q_lora_rank "
            "qk_nope_head_dim qk_rope_head_dim v_head_dim qk_head_dim num_experts "
            "num_local_experts n_routed_experts num_experts_per_tok moe_intermediate_size "
            "n_group topk_group linear_num_key_heads linear_num_value_heads linear_key_head_dim "
            "linear_value_head_dim linear_conv_kernel_dim",
            Range(1, MAX_SIZE),
        ),
        (
            "pad_token_id n_shared_experts shared_expert_intermediate_size",
            Range(0, MAX_SIZE),
        ),
        (
            "relative_attention_max_distance max_position_embeddings "
            "original_max_position_embeddings n_positions sliding_window local_attention "
            "attention_chunk_size floor_scale",
            Range(1, MAX_POSITIONS),
        ),
        (
            "rms_norm_eps layer_norm_eps layer_norm_epsilon norm_eps rope_theta rotary_emb_base "
            "rope_local_base_freq global_rope_theta local_rope_theta query_pre_attn_scalar "
            "final_logit_softcapping attn_logit_softcapping factor low_freq_factor "
            "embedding_multiplier residual_multiplier logits_scaling attention_multiplier "
            "norm_epsilon routed_scaling_factor swiglu_limit swiglu_alpha "
            "logit_scale attn_scale "
            "high_freq_factor attention_factor beta_fast beta_slow mscale mscale_all_dim",
            Range(0, open=True),
        ),
        ("partial_rotary_factor rotary_pct", Range(0, 1, open=True)),
    )
    for name in names.split()
}
"""Numeric field, of any family -> its range."""

IGNORED = frozenset(
    """
    architectures auto_map model_type transformers_version torch_dtype dtype _name_or_path
    name_or_path tokenizer_class use_cache cache_implementation is_encoder_decoder
    bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id unk_token_id mask_token_id
    decoder_start_token_id forced_bos_token_id forced_eos_token_id suppress_tokens
    begin_suppress_tokens prefix bad_words_ids task_specific_params finetuning_task
    id2label label2id num_labels _num_labels problem_type classifier_pooling
    return_dict output_hidden_states output_attentions output_past use_return_dict
    initializer_range initializer_factor initializer_cutoff_factor gradient_checkpointing
    attn_implementation _attn_implementation _attn_implementation_autoset _flash_attn_2_enabled
    pretraining_tp chunk_size_feed_forward torchscript use_bfloat16 onnx_export
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size num_return_sequences output_scores return_dict_in_generate
    exponential_decay_length_penalty remove_invalid_values transformers.js_config
    tie_last_hidden_states transformers_weights unsloth_fixed unsloth_version llmjax_version
    """.split()
)
"""Fields, of any family, that do not affect the forward pass in inference."""

NO_DEFAULT: Any = object()


@dataclass
class HFConfig:
    """A config.json being read, which tracks the fields that were read.

    Attributes:
      values: its fields.
      has: whether the model's files hold a tensor of this name, with or without the prefix.
      equal: whether two tensors exist and are equal.
      where: its path, for messages.
      names_read: the fields that were read.
    """

    values: Mapping[str, Any]
    has: Callable[[str], bool] = lambda name: False
    equal: Callable[[str, str], bool] = lambda first, second: False
    where: object = "config.json"
    names_read: set[str] = field(default_factory=set)

    def get(self, name: str, kind: type | tuple[type, ...], default: Any = NO_DEFAULT) -> Any:
        """A field's value; null counts as absent.

        Raises:
          UserError: the value is missing, out of range or of the wrong type.
        """
        self.names_read.add(name)
        value = self.values.get(name)
        if value is None:
            if default is NO_DEFAULT:
                raise UserError(self.where, f"has no {name}", "check its model_type")
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if float in kinds and int not in kinds and type(value) is int:
            value = as_float(value)
        if type(value) not in kinds:
            names = " or ".join(kind.__name__ for kind in kinds)
            raise self.error(name, value, f"it must be {names}")
        if type(value) in (int, float) and (problem := range_problem(name, value)):
            raise self.error(name, value, problem)
        return value

    def error(self, name: str, value: Any, why: str) -> UserError:
        """The error for a field that is not supported."""
        return UserError(self.where, f"{shortened(name)} is {shortened(repr(value))}: {why}")

    def check_no_others(self, ignored: frozenset[str] = frozenset()) -> None:
        """Refuse fields that were not read and could affect inference.

        Raises:
          UserError: there is such a field; names the first.
        """
        for name, value in self.values.items():
            skipped = self.names_read | ignored | IGNORED
            off = not value or "dropout" in name or name.endswith("pdrop")
            if name not in skipped and not off:
                raise self.error(name, value, "llmjax does not support this field or this value")


def range_problem(name: str, value: float) -> str:
    """Why a field's number is out of range; "" if it is not."""
    if isinstance(value, float) and not math.isfinite(value):
        return "it must be finite"
    default = Range(-MAX_INTEGER, MAX_INTEGER) if isinstance(value, int) else Range(-math.inf)
    return RANGES.get(name, default).problem(value)


def shortened(text: str) -> str:
    """Text from a file, truncated for a message."""
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def as_float(value: int | float) -> float:
    """The nearest float; infinity for integers beyond its range."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
      UserError: it does not, exceeds the limits of `json_documents.SETTINGS`, or cannot be read.
    """
    value = read_json(path, fix="restore the file")
    if not isinstance(value, dict):
        raise UserError(path, "is not a JSON object", "restore the file")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
