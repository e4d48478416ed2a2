"""Where the parts of a complete token store lie: in a local folder, or in a bucket.

    plan.json                         what is being built; the first object
    tokenizer/                        its files
    KEY/tokens/00000-of-00008.bin     a shard's tokens; see `blocks`
    KEY/documents/00000-of-00008/     the rest of the shard, of which the index is made
    KEY/shards/00000-of-00008.json    the shard is complete
    KEY/index/                        the validation documents, and which training documents count
    store.json                        the store is complete

There is a KEY for each source: that of its tokens in the cache.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjax.data.config import DataConfig
from llmjax.data.tokenizers.config import TokenizerConfig
from llmjax.errors import UserError
from llmjax.storage.checksums import check_checksum, with_checksum
from llmjax.storage.json_documents import SETTINGS, parse_json
from llmjax.storage.stores.path import Location, StorePath, location
from llmjax.storage.stores.publishing import file_sizes, get_bytes, put_bytes

FORMAT = 1
PLAN, STORE, TOKENIZER = "plan.json", "store.json", "tokenizer"
BUILD = "run llmjax data build CONFIG --data.store {}"


def store_root(config: DataConfig) -> Location:
    """The folder of `data.store`, which is set.

    Raises:
      UserError: it is an address of an unknown kind.
    """
    assert config.store is not None
    root = location(config.store)
    return root if isinstance(root, StorePath) else root.expanduser().absolute()


@dataclass(frozen=True)
class SourceFolder:
    """The folder of a source's shards."""

    store: Location
    key: str
    shards: int

    @property
    def root(self) -> Location:
        """The folder itself."""
        return self.store / self.key

    @property
    def index(self) -> Location:
        """The folder of the index."""
        return self.root / "index"

    def name(self, shard: int) -> str:
        """A shard's name."""
        return f"{shard:05}-of-{self.shards:05}"

    def tokens(self, shard: int) -> Location:
        """The file of a shard's tokens."""
        return self.root / "tokens" / f"{self.name(shard)}.bin"

    def documents(self, shard: int) -> Location:
        """The folder of the rest of a shard."""
        return self.root / "documents" / self.name(shard)

    def marker(self, shard: int) -> Location:
        """The file that appears when a shard is complete."""
        return self.root / "shards" / f"{self.name(shard)}.json"

    def missing(self) -> list[int]:
        """The shards that are not complete."""
        there = file_sizes(self.root / "shards")
        return [shard for shard in range(self.shards) if self.marker(shard).name not in there]


def read_marker(folder: SourceFolder, shard: int) -> int:
    """The number of tokens of a complete shard.

    Raises:
      UserError: it is not there, or damaged.
    """
    path = folder.marker(shard)
    data = get_bytes(path, SETTINGS.size)
    if data is None:
        raise UserError(path, "is missing from the token store", BUILD.format(folder.store))
    try:
        return int(check_checksum(parse_json(data, path), path)["tokens"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(path, "is damaged", "remove it, and build the store again") from error


@dataclass(frozen=True)
class StoredSource:
    """A source in store.json."""

    key: str
    dtype: str
    """Of the tokens, as NumPy writes it."""
    tokens: tuple[int, ...]
    """Of each shard."""


@dataclass(frozen=True)
class Manifest:
    """The content of plan.json, without `sources`, and of store.json."""

    request: Mapping[str, Any]
    """The fields of the config that decide which tokens are in the store."""
    weights: Sequence[float] | None
    """Of the sources, if the tokenizer was trained on them."""
    identities: Sequence[str]
    """The digest of the text of each source."""
    keys: Sequence[str]
    """Of each source."""
    fingerprint: str
    """Of the tokenizer."""
    sources: Sequence[StoredSource] = ()

    def write(self, path: Location) -> None:
        """Writes plan.json or store.json."""
        document = with_checksum({"format": FORMAT, **dataclasses.asdict(self)})
        put_bytes(path, json.dumps(document, indent=1).encode() + b"\n")


def read_manifest(path: Location) -> Manifest | None:
    """Reads plan.json or store.json; None if there is none.

    Raises:
      UserError: it is damaged, or of a later format.
    """
    data = get_bytes(path, SETTINGS.size)
    if data is None:
        return None
    try:
        document = check_checksum(parse_json(data, path), path)
        found = document.pop("format")
        if found != FORMAT:
            raise UserError(path, f"has format {found}, and {FORMAT} is read", "upgrade llmjax")
        sources = tuple(
            StoredSource(source["key"], source["dtype"], tuple(source["tokens"]))
            for source in document.pop("sources")
        )
        return Manifest(**document, sources=sources)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            path, "is not part of a token store", "choose another data.store"
        ) from error


def request_of(
    config: DataConfig, tokenizer: TokenizerConfig, special_tokens: tuple[str, ...]
) -> dict[str, Any]:
    """The fields that decide which tokens are in a store, as JSON has them."""
    sources: list[dict[str, Any]] = []
    for source in config.sources:
        values = dataclasses.asdict(source)  # type: ignore[call-overload]  # a dataclass
        values.pop("weight")
        if not source.filters:
            values.pop("filters", None)  # as in stores from before there were any
        sources.append({"kind": source.kind, **values})
    fields = ("validation_fraction", "validation_max_bytes", "deduplicate", "shards")
    request = {
        "data.sources": sources,
        **{f"data.{name}": getattr(config, name) for name in fields},
        "tokenizer": dataclasses.asdict(tokenizer),  # type: ignore[call-overload]
        "special_tokens": special_tokens,
    }
    as_read: dict[str, Any] = parse_json(json.dumps(request), "the config")
    return as_read


def check_request(
    root: Location,
    manifest: Manifest,
    config: DataConfig,
    request: Mapping[str, Any],
    fingerprint: str | None,
) -> None:
    """Checks that a store is that of a config.

    Args:
      root: the store's folder.
      manifest: its own.
      config: the config's part about data.
      request: `request_of` the config.
      fingerprint: of the run's tokenizer; None if it has none yet, and takes the store's.

    Raises:
      UserError: it holds other tokens.
    """
    changed = list(_differences(manifest, config, request, fingerprint))
    if changed:
        reason = f"holds the tokens of another config; different: {', '.join(changed)}"
        raise UserError(root, reason, "choose another data.store, or the config it was built with")


def _differences(
    manifest: Manifest,
    config: DataConfig,
    request: Mapping[str, Any],
    fingerprint: str | None,
) -> Iterator[str]:
    own = ("tokenizer", "special_tokens")
    for name, value in request.items():
        if manifest.request.get(name) != value and (name not in own or fingerprint is None):
            shown = f" ({manifest.request.get(name)!r} -> {value!r})"
            yield name + (shown if not isinstance(value, list | dict) else "")
    if fingerprint is not None:
        if fingerprint != manifest.fingerprint:
            yield "the tokenizer of the run"
        return
    weights = [source.weight for source in config.sources]
    if manifest.weights is not None and list(manifest.weights) != weights:
        yield "the weights of data.sources, by which the tokenizer's text was chosen"


def incomplete(root: Location) -> UserError:
    """The error of a store without store.json, which says what is missing."""
    fix = BUILD.format(root)
    plan = read_manifest(root / PLAN)
    if plan is None:
        return UserError(root, "holds no token store", fix)
    missing = []
    for number, key in enumerate(plan.keys):
        folder = SourceFolder(root, key, int(plan.request["data.shards"]))
        if shards := folder.missing():
            names = ", ".join(map(str, shards[:5])) + (", ..." if len(shards) > 5 else "")
            missing.append(f"{len(shards)} of {folder.shards} shards of source {number} ({names})")
    what = "; ".join(missing) or "its index, though all shards are there"
    return UserError(root, f"is incomplete; missing: {what}", f"{fix}, which continues it")


def as_local(path: Location) -> Path:
    """A folder of a store, or its local copy without tokens."""
    from llmjax.storage.stores.mirror import local_copy

    return local_copy(path) if isinstance(path, StorePath) else path
