"""The layer of published files that predicts tokens after next, as `model.multi_token` computes it.

It is a whole layer of the family, with experts where the family has them, beside the norms of its
two inputs, a projection of both side by side, and a norm of its own before the LM head
(DeepSeek-V3, arXiv:2412.19437, section 2.2).
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from llmjax.convert.families.tables import VECTOR
from llmjax.convert.hf.attention_fields import num_layers
from llmjax.convert.hf.config import HFConfig
from llmjax.convert.hf.names import FURTHER, LAYER, Layout, NameRow, NameTable, Segment
from llmjax.model.config import ModelConfig

log = logging.getLogger(__name__)

LAYERS, STACK = "decoder.layers.", "multi_token.stack.layers."
MODULE = "multi_token"


@dataclass(frozen=True)
class NextTokens:
    """How a family's files name what predicts tokens after next."""

    token_norm: str
    hidden_norm: str
    projection: str
    """Of the normalized embedding of the next token, and after it the normalized state."""
    norm: str
    """Before the LM head."""
    layer: str
    """The layer."""
    copies: tuple[tuple[str, str], ...] = ()
    """Tensors that some files have too -> what they equal."""
    count: str = ""
    """Field of config.json with the number of such layers; "": the tensors say it."""

    def rows(self, layer_rows: Iterable[NameRow]) -> tuple[NameRow, ...]:
        """Name rows of the module, whose layer has those of the family's layers."""
        halves = (Segment("j", ("d", "d"), number) for number in range(2))
        return (
            *(
                NameRow(f"{MODULE}.{name}.kernel", self.projection, Layout("d j -> j d", half))
                for name, half in zip(("from_token", "from_hidden"), halves, strict=True)
            ),
            NameRow(f"{MODULE}.token_norm.scale", self.token_norm, VECTOR),
            NameRow(f"{MODULE}.hidden_norm.scale", self.hidden_norm, VECTOR),
            NameRow(f"{MODULE}.stack.norm.scale", self.norm, VECTOR),
            *(
                replace(
                    row,
                    param=row.param.replace(LAYERS, STACK, 1),
                    tensor=row.tensor.replace(f"model.layers.{LAYER}", self.layer),
                )
                for row in layer_rows
                if row.param.startswith(LAYERS)
            ),
        )

    def table(self, table: NameTable) -> NameTable:
        """A family's name table, with the module's rows."""
        return replace(
            table,
            rows=(*table.rows, *self.rows(table.rows)),
            further_copies=dict(self.copies),
        )

    def read(self, hf: HFConfig) -> dict[str, Any]:
        """As `Field`: the module is read if the files have one such layer, and all of it."""
        layers = num_layers(hf)
        hf.names_read.update(("num_nextn_predict_layers", "num_mtp_layers"))
        stated = 1
        if self.count:
            alias = hf.get("num_mtp_layers", int, 0)
            stated = hf.get(self.count, int, alias)
        projection, router = (
            name.replace(FURTHER, str(layers))
            for name in (self.projection, f"{self.layer}.mlp.gate.weight")
        )
        if stated != 1 or not hf.has(projection):
            return {}
        for copy, original in self.copies:
            copy = copy.replace(FURTHER, str(layers))
            if hf.has(copy) and hf.has(original) and not hf.equal(copy, original):
                log.warning(
                    "%s: its layer for tokens after next is left out: it has its own %s",
                    hf.where,
                    copy,
                )
                return {}
        return {"multi_token": True, "multi_token_experts": hf.has(router)}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """As `Field`."""
        return {self.count: int(config.multi_token)} if self.count else {}


_L = f"model.layers.{FURTHER}"
AFTER_LAST = NextTokens(
    token_norm=f"{_L}.enorm.weight",
    hidden_norm=f"{_L}.hnorm.weight",
    projection=f"{_L}.eh_proj.weight",
    norm=f"{_L}.shared_head.norm.weight",
    layer=_L,
    copies=(
        (f"{_L}.embed_tokens.weight", "model.embed_tokens.weight"),
        (f"{_L}.shared_head.head.weight", "lm_head.weight"),
    ),
    count="num_nextn_predict_layers",
)
"""One more layer after the last (DeepSeek V3, GLM 4.5)."""
BESIDE = NextTokens(
    token_norm="mtp.pre_fc_norm_embedding.weight",
    hidden_norm="mtp.pre_fc_norm_hidden.weight",
    projection="mtp.fc.weight",
    norm="mtp.norm.weight",
    layer="mtp.layers.0",
)
"""Tensors under a prefix of their own (Qwen3-Next)."""
