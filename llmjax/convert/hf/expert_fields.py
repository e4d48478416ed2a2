"""Fields of a config.json about mixtures of experts."""

from dataclasses import dataclass, field
from typing import Any

from llmjax.convert.hf.attention_fields import num_layers
from llmjax.convert.hf.config import HFConfig
from llmjax.model.config import ModelConfig
from llmjax.model.moe_config import MoEConfig


@dataclass(frozen=True)
class FirstDense:
    """The first layers are dense."""

    default: int
    name: str = "first_k_dense_replace"

    def read(self, hf: HFConfig) -> tuple[int, ...]:
        """The dense layers."""
        return tuple(range(min(hf.get(self.name, int, self.default), num_layers(hf))))

    def write(self, dense: tuple[int, ...], layers: int) -> dict[str, Any]:
        """The fields that say so, as far as they can."""
        return {self.name: len(dense)}


@dataclass(frozen=True)
class EveryNth:
    """One of every so many layers has experts, but for those of a list (Qwen)."""

    def read(self, hf: HFConfig) -> tuple[int, ...]:
        step, listed = hf.get("decoder_sparse_step", int, 1), hf.get("mlp_only_layers", list, [])
        if any(type(layer) is not int for layer in listed):
            raise hf.error("mlp_only_layers", listed, "it must list numbers of layers")
        layers = range(num_layers(hf))
        return tuple(i for i in layers if i in listed or (i + 1) % step)

    def write(self, dense: tuple[int, ...], layers: int) -> dict[str, Any]:
        for step in range(1, layers + 1):
            if set(dense) == {i for i in range(layers) if (i + 1) % step}:
                return {"decoder_sparse_step": step, "mlp_only_layers": []}
        return {"decoder_sparse_step": 1, "mlp_only_layers": list(dense)}


@dataclass(frozen=True)
class Interleaved:
    """One of every so many layers has experts, or those of a list (Llama 4)."""

    def read(self, hf: HFConfig) -> tuple[int, ...]:
        step, layers = hf.get("interleave_moe_layer_step", int, 1), num_layers(hf)
        sparse = hf.get("moe_layers", list, list(range(step - 1, layers, step)))
        if any(type(layer) is not int for layer in sparse):
            raise hf.error("moe_layers", sparse, "it must list numbers of layers")
        return tuple(layer for layer in range(layers) if layer not in sparse)

    def write(self, dense: tuple[int, ...], layers: int) -> dict[str, Any]:
        sparse = [layer for layer in range(layers) if layer not in dense]
        steps = range(1, layers + 1)
        step = next((n for n in steps if sparse == list(range(n - 1, layers, n))), 1)
        return {"interleave_moe_layer_step": step, "moe_layers": sparse}


@dataclass(frozen=True)
class NoDense:
    """All layers have experts."""

    def read(self, hf: HFConfig) -> tuple[int, ...]:
        return ()

    def write(self, dense: tuple[int, ...], layers: int) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Experts:
    """The mixture of experts of a family: what its files say, and what is the same in all of them.

    Defaults are None of fields that a family lacks; of `names`, the first is written. Losses of
    the router are options of training, which Transformers leaves out too unless asked.
    """

    names: tuple[str, ...] = ("num_experts", "num_local_experts")
    count: int = 8
    chosen: int = 2
    dense: FirstDense | EveryNth | Interleaved | NoDense = NoDense()
    width: int | None = None
    """Default of `width_name`; None: experts are as wide as intermediate_size says."""
    width_name: str = "moe_intermediate_size"
    normalize: bool | None = None
    """Default of norm_topk_prob; None: as `fixed` says."""
    scale: float | None = None
    """Default of routed_scaling_factor; None: there is none."""
    shared: int | None = None
    """Default of n_shared_experts, in widths of an expert."""
    shared_width: int | None = None
    """Default of shared_expert_intermediate_size."""
    shares_width: bool = False
    """Whether there is a shared expert, as wide as the others."""
    groups: tuple[int, int] | None = None
    """Defaults of n_group and topk_group."""
    jitter: float | None = None
    """Default of router_jitter_noise, where it matters in inference too."""
    fixed: dict[str, Any] = field(default_factory=dict)
    """Fields of MoEConfig."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        dense = self.dense.read(hf)
        values = dict(self.fixed) | {"dense_layers": dense}
        found = [hf.get(name, int, None) for name in self.names]
        values["num_experts"] = next((n for n in found if n is not None), self.count)
        values["experts_per_token"] = hf.get("num_experts_per_tok", int, self.chosen)
        if self.width is None:
            width = hf.get("intermediate_size", int)
        else:
            width = values["expert_width"] = hf.get(self.width_name, int, self.width)
        if self.shares_width:
            values["shared_width"] = width
        if self.normalize is not None:
            values["normalize"] = hf.get("norm_topk_prob", bool, self.normalize)
        if self.scale is not None:
            values["weight_scale"] = float(hf.get("routed_scaling_factor", float, self.scale))
        if self.shared is not None:
            values["shared_width"] = width * hf.get("n_shared_experts", int, self.shared)
        if self.shared_width is not None:
            name = "shared_expert_intermediate_size"
            values["shared_width"] = hf.get(name, int, self.shared_width)
        if self.groups is not None:
            values["groups"] = hf.get("n_group", int, self.groups[0])
            values["groups_per_token"] = hf.get("topk_group", int, self.groups[1])
        if self.jitter is not None:
            values["jitter"] = hf.get("router_jitter_noise", float, self.jitter)
        return {"moe": MoEConfig(**values) if len(dense) < num_layers(hf) else None}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        layers, moe = config.num_decoder_layers, config.moe
        if moe is None:
            return self.dense.write(tuple(range(layers)), layers)
        width = config.expert_width
        values: dict[str, Any] = dict(self.dense.write(moe.dense_layers, layers))
        values |= {self.names[0]: moe.num_experts, "num_experts_per_tok": moe.experts_per_token}
        if self.width is not None:
            values[self.width_name] = width
        if self.normalize is not None:
            values["norm_topk_prob"] = moe.normalize
        if self.scale is not None:
            values["routed_scaling_factor"] = moe.weight_scale
        if self.shared is not None:
            values["n_shared_experts"] = moe.shared_width // width
        if self.shared_width is not None:
            values["shared_expert_intermediate_size"] = moe.shared_width
        if self.groups is not None:
            values |= {"n_group": moe.groups, "topk_group": moe.groups_per_token}
        if self.jitter is not None:
            values["router_jitter_noise"] = moe.jitter
        return values
