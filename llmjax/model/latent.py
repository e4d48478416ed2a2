"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): its config."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LatentConfig:
    """Multi-head latent attention (arXiv:2405.04434): keys and values of all heads are projections
    of one compressed vector, which is all that a decoder caches, with a rotated key shared by all
    heads. The compressed vectors are normalized (RMSNorm)."""

    kv_rank: int = 512
    """Width of the compressed vector of keys and values (kv_lora_rank)."""
    query_rank: int | None = None
    """Width of that of queries (q_lora_rank); None: they are projected from the input."""
    nope_head_dim: int = 128
    """Dimensions of a head's queries and keys without positions."""
    rope_head_dim: int = 64
    """Rotated dimensions of a head's queries, and of the key that the heads share."""
    value_head_dim: int = 128
    """Width of a head's values."""
    norm_epsilon: float = 1e-6
    """Added to the variance of compressed vectors."""
    kind: Literal["mla"] = "mla"

    @property
    def head_width(self) -> int:
        """Width of a head's queries and keys."""
        return self.nope_head_dim + self.rope_head_dim

    @property
    def cache_width(self) -> int:
        """Numbers in the cache of each token and layer."""
        return self.kv_rank + self.rope_head_dim


def latent_problems(latent: LatentConfig) -> Iterator[str]:
    """Yields what is wrong with the values, a line each."""
    for name in ("kv_rank", "query_rank", "nope_head_dim", "rope_head_dim", "value_head_dim"):
        size = getattr(latent, name)
        if size is not None and size < 1:
            yield f"mla.{name} must be positive, not {size}"
    if latent.rope_head_dim % 2:
        yield f"mla.rope_head_dim must be even, not {latent.rope_head_dim}"
    if not 0 < latent.norm_epsilon < float("inf"):
        yield f"mla.norm_epsilon must be positive and finite, not {latent.norm_epsilon}"
