"""Measures the preparation of text: speed, memory, and kills.

Command: python -m benchmarks.data_build speed|memory|kills [--megabytes N ...] [--kills 20]
         [--executor NAME ...]
The text is made up, the same each time. Each preparation runs in a process of its own, which
imports no JAX. Prints a line per measurement, then JSON.

speed   MB of text per second, and per second of processor time: one store, as training prepares
        it, shards, and shards by datatrove; by 1 and 2 workers. With --executor slurm:PARTITION or
        ray the last also on that cluster, which runs on this machine. Processor time is that of
        all processes of a preparation, as last seen by looking every 0.1 s.
memory  the largest resident memory, for several sizes of text: in all, and without the pages of
        mapped files, which the system takes back when it needs them.
kills   SIGKILL to all processes of a build at random moments until it completes; the store must
        equal that of an undisturbed build.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VOCABULARY = 20_000
WORDS_PER_LINE = 400

PREPARE = """
import json, sys
from llmjax.data.config import DataConfig
from llmjax.data.datatrove.executors import LocalExecutor, RayExecutor, SlurmExecutor
from llmjax.data.text.corpus import prepare
from llmjax.data.text.text_files import TextSource
from llmjax.data.tokenizers.config import BytesConfig, SentencePieceConfig

if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    source = TextSource((options["text"],), split="line")
    config = DataConfig((source,), cache_dir=options["cache"], shards=options["shards"],
                        workers=options["workers"])
    tokenizer = BytesConfig() if options["bytes"] else SentencePieceConfig(4096)
    kind, _, partition = (options["datatrove"] or "").partition(":")
    executors = {"local": LocalExecutor, "ray": RayExecutor, "": lambda: None}
    executors["slurm"] = lambda: SlurmExecutor(partition=partition)
    executor = executors[kind]()
    prepare(config, tokenizer, executor=executor)
"""


def write_text(path: Path, megabytes: int) -> None:
    """Writes lines of made-up words, some more frequent than others, until the size is reached."""
    rng = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(rng.choices(letters, k=rng.randrange(2, 9))) for _ in range(VOCABULARY)]
    weights = [1 / (rank + 3) for rank in range(VOCABULARY)]
    bounds = list(_cumulative(weights))
    with path.open("w", encoding="ascii") as file:
        while file.tell() < megabytes * 10**6:
            line = " ".join(rng.choices(words, cum_weights=bounds, k=WORDS_PER_LINE))
            # The same words in other orders: no line is a copy of another.
            parts = line.split(" ")
            for number in range(20):
                file.write(f"{number} " + " ".join(parts[number:] + parts[:number]) + "\n")


def _cumulative(weights: list[float]) -> Any:
    total = 0.0
    for weight in weights:
        total += weight
        yield total


def start(folder: Path, text: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Starts a preparation with its cache in `folder`, as a process group of its own."""
    values = {"text": str(text), "cache": str(folder), "shards": 1, "workers": 1}
    values |= {"bytes": True, "datatrove": None} | options
    command = [sys.executable, "-c", PREPARE, json.dumps(values)]
    # The processes of a cluster inherit this variable too, by which they are known.
    paths = {"PYTHONPATH": os.pathsep.join([os.getcwd(), str(folder)])}
    return subprocess.Popen(command, start_new_session=True, env=os.environ | paths)


def measure(folder: Path, text: Path, **options: Any) -> dict[str, Any]:
    """Runs a preparation to its end: its seconds, processor seconds and peak memory in MB."""
    begin = time.perf_counter()
    process, anonymous = start(folder, text, **options), 0.0
    seen = ProcessorTime(str(folder).encode())
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        anonymous = max(anonymous, anonymous_mb(process.pid))
        seen.look()
        time.sleep(0.1)
    _, status, usage = ended
    seconds = time.perf_counter() - begin
    if status:
        raise RuntimeError(f"a preparation failed with status {status}")
    cpu = seen.total()
    peaks = {"peak_mb": usage.ru_maxrss / 1e3, "peak_anonymous_mb": anonymous}
    return {"seconds": seconds, "cpu_seconds": cpu, **peaks}


class ProcessorTime:
    """Processor seconds of the processes whose PYTHONPATH has a folder, and of Ray's, by looking at
    them again and again."""

    def __init__(self, folder: bytes):
        self._folder = folder
        self._others: set[str] = set()
        self._seconds: dict[str, float] = {}

    def look(self) -> None:
        """Notes what the processes have taken so far."""
        for path in Path("/proc").glob("[0-9]*"):
            if path.name in self._others:
                continue
            with contextlib.suppress(OSError):
                if path.name not in self._seconds and not self._is_ours(path):
                    self._others.add(path.name)
                    continue
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                ticks = int(fields[11]) + int(fields[12])
                self._seconds[path.name] = ticks / os.sysconf("SC_CLK_TCK")

    def _is_ours(self, path: Path) -> bool:
        if (path / "cmdline").read_bytes().startswith(b"ray::"):
            return True
        return self._folder in (path / "environ").read_bytes()

    def total(self) -> float:
        """In all."""
        return sum(self._seconds.values())


def anonymous_mb(pid: int) -> float:
    """MB of a process's resident memory that are not pages of files; 0 where that is unknown."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1e3
    return 0.0


def speed(root: Path, megabytes: int, executors: list[str]) -> dict[str, Any]:
    """MB/s of each way to prepare the same text with SentencePiece."""
    text, results = root / "text.txt", {}
    write_text(text, megabytes)
    size = text.stat().st_size / 1e6
    ways: dict[str, dict[str, Any]] = {"one store": {}, "4 shards": {"shards": 4}}
    for executor in ("local", *executors):
        name = executor.partition(":")[0]
        ways[f"4 shards, datatrove {name}"] = {"shards": 4, "datatrove": executor}
    # The tokenizer is trained once; a tiny text of its own would give another one.
    trained = root / "trained"
    measure(trained, text, bytes=False)
    for name, options in ways.items():
        for workers in (1, 2):
            cache = root / f"{len(results)}"  # SLURM takes no path with spaces
            cache.mkdir()
            (cache / "tokenizers").symlink_to(trained / "tokenizers")
            found = measure(cache, text, bytes=False, workers=workers, **options)
            found["mb_per_second"] = size / found["seconds"]
            found["mb_per_cpu_second"] = size / found["cpu_seconds"]
            results[f"{name}, {workers} workers"] = found
            print(f"{name}, {workers} workers: {found}", flush=True)
    return results


def memory(root: Path, sizes: list[int]) -> dict[str, Any]:
    """Peak memory by size of text, with the byte tokenizer, in 8 shards."""
    results = {}
    for megabytes in sizes:
        text = root / f"{megabytes}.txt"
        write_text(text, megabytes)
        cache = root / f"cache-{megabytes}"
        results[str(megabytes)] = found = measure(cache, text, shards=8)
        print(f"{megabytes} MB: {found}", flush=True)
        text.unlink()
        subprocess.run(["rm", "-r", str(cache)], check=True)
    return results


def digest(cache: Path) -> str:
    """A hash of the names and contents of a store's files."""
    found = hashlib.sha256()
    for path in sorted((cache / "tokens").rglob("[!.]*")):
        if path.is_file():
            found.update(str(path.relative_to(cache)).encode() + path.read_bytes())
    return found.hexdigest()


def kills(root: Path, megabytes: int, count: int, **options: Any) -> dict[str, Any]:
    """Builds whose processes are killed at random moments, `count` times in all."""
    rng, text = random.Random(0), root / "text.txt"
    write_text(text, megabytes)
    options = {"shards": 12, "workers": 2} | options
    limit = measure(root / "whole", text, **options)["seconds"]
    expected, done, builds = digest(root / "whole"), 0, 0
    while done < count:
        cache, complete = root / f"killed-{builds}", False
        while not complete:
            process = start(cache, text, **options)
            with contextlib.suppress(subprocess.TimeoutExpired):
                complete = process.wait(rng.uniform(0.2, 1.0) * limit) == 0
                if not complete:
                    raise RuntimeError("a build failed")
            if not complete:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                done += 1
                finished = len(list(cache.glob("tokens/*/[0-9]*-of-*")))
                print(f"kill {done}: {finished} of {options['shards']} shards", flush=True)
        builds += 1
        if digest(cache) != expected:
            raise RuntimeError(f"the store of build {builds} differs")
    return {"kills": done, "builds": builds, "equal": True}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["speed", "memory", "kills"])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[20])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--datatrove", action="store_true", help="kill builds of datatrove")
    parser.add_argument("--executor", nargs="*", default=[], help="slurm:PARTITION, ray")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if arguments.what == "speed":
            result = speed(root, arguments.megabytes[0], arguments.executor)
        elif arguments.what == "memory":
            result = memory(root, arguments.megabytes)
        else:
            megabytes = arguments.megabytes[0]
            datatrove = "local" if arguments.datatrove else None
            result = kills(root, megabytes, arguments.kills, datatrove=datatrove)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
