"""What a start makes on disk before it has trained anything, and how that goes away again."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from llmjax.run.folder import Run
from llmjax.training.standing import Standing


class NewFolder:
    """The run folder as it was before a start; look at it before the folder is made."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._missing = [path for path in (folder, *folder.parents) if not path.exists()]
        self._before = {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    @contextlib.contextmanager
    def kept_if(self, standing: Standing) -> Iterator[None]:
        """Removes what the block makes, if it fails before a step has been trained."""
        try:
            yield
        except BaseException:
            self.remove(standing)
            raise

    def remove(self, standing: Standing) -> None:
        """Removes what was made since, unless the run was trained, by this start or before; what
        was there before stays, whatever it is."""
        run = Run(self._folder)
        logged = run.metrics.is_file() and run.metrics.stat().st_size > 0
        if standing.trained or run.steps() or logged or not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if path.name in self._before:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something of another's is in it by now
            for path in self._missing:
                path.rmdir()
