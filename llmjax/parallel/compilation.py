"""JAX's persistent compilation cache, and options of the compilers of accelerators."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from llmjax.errors import UserError
from llmjax.storage.writing import cache_root

Options = dict[str, str | bool | int]

VMEM = "xla_tpu_scoped_vmem_limit_kib"
SMALL_VMEM = ("TPU v2", "TPU v3", "TPU v4")
"""How the kinds of TPUs begin whose VMEM is too small for more than the default."""

OPTIONS: Mapping[str, Options] = {
    "tpu": {
        # VMEM that a fusion may fill, in KiB (of 64 or 128 MiB; the compiler's default is 16 MiB):
        # operands of products are read from HBM less often. Llama 8B on v5e: 7.20e9 cycles in
        # products instead of 8.59e9.
        VMEM: 40_960,
        # Products with a collective beyond so many MiB are not computed in parts, between which
        # devices wait for a neighbour. Llama 8B on v5e, tensor 4 and fsdp 64: 44 GB of collectives
        # a step that nothing runs beside, instead of 66.
        "xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000,
    },
    "gpu": {
        # Starts collectives as early and awaits them as late as memory allows. The default of some
        # versions; its gain is not measured.
        "xla_gpu_enable_latency_hiding_scheduler": True,
    },
}
"""By platform; a CPU's compiler gets none."""

DECODING: Mapping[str, Options] = {
    # Vectors of 512 bits where a CPU has them (the compiler's default is 256), for the loops that
    # multiply a single row. SmolLM2-135M on 2 cores: 3 to 6 percent less time a step with one row,
    # and no change with 16.
    "cpu": {"xla_cpu_prefer_vector_width": 512},
}
"""By platform, for programs that generate tokens; other platforms get none."""

_UNKNOWN = re.compile(r"[Nn]o such compile option: '?([\w.\-]+)")
_PAIR = re.compile(r"(?:--)?([A-Za-z]\w*)=(\S+)")


def enable_compilation_cache(cache_dir: str | None = None) -> None:
    """Enables JAX's persistent compilation cache, unless the user has set its folder.

    Args:
      cache_dir: the cache folder; None for the default (see DataConfig.cache_dir).
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = cache_root(cache_dir) / "compiled" / _processor()
        jax.config.update("jax_compilation_cache_dir", str(folder))


def compiler_options(platform: str, added: Sequence[str] = (), kind: str | None = None) -> Options:
    """The options of a platform's compiler, and those of a user, which have precedence.

    Args:
      platform: "cpu", "gpu" or "tpu".
      added: such as "xla_tpu_scoped_vmem_limit_kib=16384".
      kind: the devices' `device_kind`; None: a recent one.
    """
    pairs = (_PAIR.fullmatch(each) for each in added)
    values = {pair[1]: _value(pair[2]) for pair in pairs if pair}
    ours = dict(OPTIONS.get(platform, {}))
    if kind is not None and kind.startswith(SMALL_VMEM):
        ours.pop(VMEM, None)
    return ours | values


def option_problems(added: Sequence[str]) -> Iterator[str]:
    """Yields what is wrong with how a user writes options, a line each."""
    for each in added:
        if not _PAIR.fullmatch(each):
            yield f"{each!r} is not NAME=VALUE"


def accepted_options(platform: str, added: Sequence[str] = (), kind: str | None = None) -> Options:
    """As `compiler_options`, without those of ours that this version of the compiler lacks.

    Compiles an empty program to find out.

    Raises:
      UserError: the compiler lacks an option of the user, or refuses its value.
    """
    options = compiler_options(platform, added, kind)
    mine = {pair[1] for each in added if (pair := _PAIR.fullmatch(each))}
    program = jax.jit(lambda: 0).lower() if options else None
    while options and program:
        try:
            program.compile(compiler_options=dict[str, Any](options))
            break
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            unknown = _UNKNOWN.search(str(error))
            if unknown is None or unknown[1] in mine or unknown[1] not in options:
                raise _refusal(platform, added, str(error)) from error
            del options[unknown[1]]
    return options


def _refusal(platform: str, added: Sequence[str], message: str) -> UserError:
    unknown = _UNKNOWN.search(message)
    if unknown:
        return UserError(
            f"compute.xla_options {unknown[1]}",
            f"the compiler for {platform} has no option of this name",
            "correct it or leave it out; names depend on the version of jaxlib or libtpu",
        )
    return UserError(
        f"compute.xla_options {' '.join(added)}",
        message.splitlines()[0],
        "correct the value or leave it out",
    )


def _value(text: str) -> str | bool | int:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else text


def _processor() -> str:
    """Names this kind of processor, since code compiled for one may crash on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    kind = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return hashlib.blake2b("\n".join(kind).encode(), digest_size=6).hexdigest()
