"""Builds a token store: its shards through the cache, then its indices and store.json."""

from dataclasses import replace
from pathlib import Path

from llmjax.data.config import DataConfig, check_data
from llmjax.data.datatrove.executors import Executor
from llmjax.data.progress import Progress, no_progress
from llmjax.data.text.cache import key_inputs
from llmjax.data.text.corpus import (
    Corpus,
    known_tokenizer,
    pin_sources,
    prepare,
    tokenize,
    train_or_load,
)
from llmjax.data.text.publish import publish_source, publish_tokenizer
from llmjax.data.text.shards import Sharding
from llmjax.data.text.source import Identity, Source, json_digest
from llmjax.data.text.store_layout import (
    PLAN,
    STORE,
    TOKENIZER,
    Manifest,
    check_request,
    read_manifest,
    request_of,
    store_root,
)
from llmjax.data.tokenizers.config import TokenizerConfig
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.storage.stores.path import Location

PUBLISHING = "Publishing the token store"
"""The stage of `progress` in which an incomplete store is completed."""


def build_store(
    config: DataConfig,
    tokenizer_config: TokenizerConfig,
    tokenizer_folder: Path | None = None,
    progress: Progress = no_progress,
    special_tokens: tuple[str, ...] = (),
    executor: Executor | None = None,
) -> tuple[Tokenizer, Corpus]:
    """Completes the token store at `data.store`, and opens it.

    Each shard is tokenized in the cache, and then published; those that are published already are
    left out, whoever built them.

    Args:
      config, tokenizer_config, progress, special_tokens, executor: as for `prepare`.
      tokenizer_folder: an existing tokenizer/ folder, or None.

    Raises:
      UserError: as `prepare`; or the store was begun with another config or other text.
    """
    check_data(config, tokenizer_config)
    root, known = store_root(config), known_tokenizer(tokenizer_folder)
    pinned, identities = pin_sources(config)
    digests = [identity.digest for identity in identities]
    request = request_of(config, tokenizer_config, special_tokens)
    complete = read_manifest(root / STORE)
    begun = complete or read_manifest(root / PLAN)
    if begun is not None:
        check_request(root, begun, config, request, known.fingerprint if known else None)
        if digests != list(begun.identities):
            reason = "was begun with other text: the sources have changed since"
            raise UserError(root, reason, "choose another data.store, or remove this one")
    if complete is None:
        tokenizer = known or tokenizer_config.open()
        weights = None if tokenizer else [source.weight for source in config.sources]
        tokenizer = tokenizer or train_or_load(
            tokenizer_config, pinned, identities, progress, special_tokens
        )
        keys = [
            _key(source, identity, tokenizer, pinned)
            for source, identity in zip(pinned.sources, identities, strict=True)
        ]
        plan = Manifest(request, weights, digests, keys, tokenizer.fingerprint)
        plan.write(root / PLAN)
        tokenizer, corpus = tokenize(
            pinned, identities, tokenizer_config, known, progress, special_tokens, executor
        )
        progress(PUBLISHING, 0, None)
        _publish(root, plan, tokenizer, corpus)
    return prepare(config, tokenizer_config, tokenizer_folder, progress, special_tokens)


def _publish(root: Location, plan: Manifest, tokenizer: Tokenizer, corpus: Corpus) -> None:
    """Writes what follows the shards; the keys may be others than planned, where the validation
    set would have been empty."""
    publish_tokenizer(root / TOKENIZER, tokenizer)
    sources = [publish_source(root, source) for source in corpus.sources]
    keys = [source.key for source in sources]
    complete = replace(plan, keys=keys, fingerprint=tokenizer.fingerprint, sources=sources)
    complete.write(root / STORE)


def _key(source: Source, identity: Identity, tokenizer: Tokenizer, config: DataConfig) -> str:
    """The key of a source's tokens in the cache."""
    if config.is_sharded:
        return Sharding.of(source, identity, config, tokenizer).corpus_key
    return json_digest(key_inputs(identity, tokenizer.fingerprint, tokenizer.vocab_size, config))
