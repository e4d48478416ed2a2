"""Migrations of stored configs, as plain data, from each format to the next."""

from collections.abc import Callable
from typing import Any

Plain = dict[str, Any]


def _families(config: Plain) -> Plain:
    """1 -> 2: fields of the model by which published families differ, unused before; and the
    objective, which was causal."""
    absent: Plain = {
        "first_norm": True,
        "norm_unit_offset": False,
        "parallel_residual": False,
        "first_position": 0,
        "token_types": 0,
        "relative_buckets": 32,
        "relative_max_distance": 128,
        "window_rope_theta": None,
        "rope_scaling": {"kind": "none"},
        "rotary_fraction": 1.0,
        "unrotated_layers": [],
        "qk_norm_over": "head",
        "attention_scale": None,
        "global_layers": [],
        "logit_scale": 1.0,
        "unembed_transform": False,
        "pooler": False,
    }
    objective = {"weight": 1.0, "kind": "causal"}
    return config | {"model": absent | config["model"], "objective": objective}


def _tasks(config: Plain) -> Plain:
    """2 -> 3: tasks and related fields; older runs trained all parameters on text."""
    absent: Plain = {
        "epochs": None,
        "init_from": None,
        "tasks": [],
        "tune": {"layer_decay": 1.0, "kind": "all"},
    }
    model = {"lora": None} | config["model"]
    evaluation = {"metric": None, "patience": 0} | config["evaluation"]
    return absent | config | {"model": model, "evaluation": evaluation}


def _task_settings(config: Plain) -> Plain:
    """3 -> 4: fields of tasks for predictions and metrics, fixed before."""
    absent: dict[str, Plain] = {
        "answers": {"no_answer_threshold": 0.0},
        "sequence": {"bleu_tokenize": "13a"},
    }
    tasks = [task | absent.get(task["kind"], {}) for task in config["tasks"]]
    return config | {"tasks": tasks}


def _redesign(config: Plain) -> Plain:
    """4 -> 5: renamed and regrouped fields."""
    return _renamed_tasks(_validation(_lm_head(_compute(_log(_mesh(config))))))


def _mesh(config: Plain) -> Plain:
    """Meshes of several slices are new."""
    return config | {"mesh": config["mesh"] | {"across_slices": None}}


def _log(config: Plain) -> Plain:
    """The watchdog is new."""
    return config | {"log": config["log"] | {"watchdog": 600}}


def _renamed_tasks(config: Plain) -> Plain:
    """Two kinds of tasks were renamed; their `name` keeps the old one, which heads and metrics use.
    Rows had been packed again in every epoch."""
    kinds = {"tokens": "token_classification", "answers": "extractive_qa"}
    tasks = [
        task
        | {"repack": True, "kind": kinds.get(task["kind"], task["kind"])}
        | ({"name": task["name"] or task["kind"]} if task["kind"] in kinds else {})
        for task in config["tasks"]
    ]
    return config | {"tasks": tasks}


def _compute(config: Plain) -> Plain:
    """Fields of how a model is run moved to `compute`; `layer_d_ff` is new."""
    model = dict(config["model"])
    compute = {name: model.pop(name) for name in ("attention", "remat", "dropout", "init_std")}
    compute["dtype"] = model.pop("compute_dtype")
    return config | {"model": model | {"layer_d_ff": []}, "compute": compute}


def _lm_head(config: Plain) -> Plain:
    """Fields named unembed_ became lm_head_, and `tune` became `trainable`."""
    model = dict(config["model"])
    for name in ("bias", "transform"):
        model[f"lm_head_{name}"] = model.pop(f"unembed_{name}")
    rest = {name: value for name, value in config.items() if name != "tune"}
    return rest | {"model": model, "trainable": config["tune"]}


def _validation(config: Plain) -> Plain:
    """Fields named heldout_ became validation_."""
    data = dict(config["data"])
    for name in ("fraction", "max_bytes"):
        data[f"validation_{name}"] = data.pop(f"heldout_{name}")
    return config | {"data": data}


def _clusters(config: Plain) -> Plain:
    """5 -> 6: new fields, with what they stand for in runs that lacked them."""
    absent: dict[str, Plain] = {
        "checkpoint": {"local_dir": None, "local_every": 100},
        "data": {"deduplicate": "window", "shards": 1, "stages": []},
        "evaluation": {"tasks": []},
        "replay": {"every": 0},
        "spikes": {"factor": 0.0, "recent": 128},
    }
    return config | {part: fields | config.get(part, {}) for part, fields in absent.items()}


def _stores(config: Plain) -> Plain:
    """6 -> 7: new fields, with what they stand for in runs that lacked them."""
    absent: dict[str, Plain] = {
        "data": {"max_tokens": None, "store": None, "store_cache_bytes": 8 << 30},
        "spikes": {"action": "skip", "max_roll_backs": 10},
    }
    return config | {part: config[part] | fields for part, fields in absent.items()}


def _speed(config: Plain) -> Plain:
    """7 -> 8: new fields, with what they stand for in runs that lacked them."""
    compute: Plain = {
        "context_parallel": "gather",
        "offload": [],
        "pipeline_microbatches": None,
        "pipeline_rounds": 1,
        "quantization": "none",
        "quantized_gradients": "all",
        "quantized_params": [],
        "reduce_dtype": "float32",
        "xla_options": [],
    }
    model: Plain = {
        "activation_limit": None,
        "attention_sinks": False,
        "embed_multiplier": 1.0,
        "mla": None,
        "multi_token": False,
        "qk_norm_kind": "rmsnorm",
        "moe": None,
        "residual_multiplier": 1.0,
        "rope_interleaved": False,
        "shared_norm": False,
        "up_offset": 0.0,
    }
    optimizer: Plain = {"moment_dtype": "float32"}
    sources = [{"filters": [], **source} for source in config["data"]["sources"]]
    if config["model"].get("rope_scaling", {}).get("kind") == "longrope":
        model["rope_scaling"] = config["model"]["rope_scaling"] | {"by_length": False}
    return config | {
        "data": config["data"] | {"sources": sources},
        "model": config["model"] | model,
        "compute": config["compute"] | compute,
        "loss": {"multi_token_weight": 0.3} | config["loss"],
        "mesh": config["mesh"] | {"stage": 1},
        "optimizer": config["optimizer"] | optimizer,
    }


def _sparse(config: Plain) -> Plain:
    """8 -> 9: new fields, with what they stand for in runs that lacked them."""
    compute: Plain = {"expert_buffer": 1.25}
    model: Plain = {"attention_gate": False, "linear": None}
    mesh: Plain = {"expert": 1}
    optimizer: Plain = {}
    return config | {
        "compute": config["compute"] | compute,
        "model": config["model"] | model,
        "mesh": config["mesh"] | mesh,
        "optimizer": config["optimizer"] | optimizer,
        "upcycling": {"noise": 0.0},
    }


def _refined(config: Plain) -> Plain:
    """9 -> 10: new fields, with what they stand for in runs that lacked them."""
    compute: Plain = {}
    model: Plain = {
        "multi_token_experts": False,
        "query_growth": 0.0,
        "query_growth_length": 8192,
        "window_chunks": False,
    }
    return config | {
        "compute": config["compute"] | compute,
        "model": config["model"] | model,
        "parametrization": {"kind": "standard"},
    }


MIGRATIONS: dict[int, Callable[[Plain], Plain]] = {
    1: _families,
    2: _tasks,
    3: _task_settings,
    4: _redesign,
    5: _clusters,
    6: _stores,
    7: _speed,
    8: _sparse,
    9: _refined,
}
"""Format -> the migration from it."""
