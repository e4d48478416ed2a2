"""An archive and the model that it was made by, found to fit before anything is decoded."""

import hashlib
import logging
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from llmjax.compression.archive import MODEL, Archive
from llmjax.compression.damage import damaged
from llmjax.compression.fingerprint import changes, environment, model_fingerprint
from llmjax.compression.frames import FRAME, decode_frame
from llmjax.compression.lanes import Shape, Walker
from llmjax.compression.progress import Progress
from llmjax.compression.stream import canary
from llmjax.compression.visible import visible
from llmjax.errors import UserError
from llmjax.inference.language_model import load
from llmjax.scoring.documents import window_sizes

logger = logging.getLogger(__name__)


class Engine:
    """Decodes one archive.

    Attributes:
      archive: what is decoded.
      start_seconds: how long it took until the model was there and found right.
    """

    def __init__(self, run: str | Path, archive: Archive):
        """Args:
          run: the run folder.
          archive: open for reading.

        Raises:
          UserError: the archive is damaged, the run is none, or of another model or tokenizer, or
            the model computes otherwise here.
        """
        began, self.archive = time.perf_counter(), archive
        self._wanted = _Wanted(self.archive.header)
        self._lm = load(run, step=self._wanted.step, dtype=self._wanted.dtype)
        _same("tokenizer", self._wanted.tokenizer, self._lm.tokenizer.fingerprint, run)
        _same("model", self._wanted.model, model_fingerprint(self._lm), run)
        if MODEL in self.archive.kinds():
            self.walker  # noqa: B018 (before the first frame, whatever that is)
        self.start_seconds = time.perf_counter() - began

    @cached_property
    def walker(self) -> Walker:
        """The model, ready to decode.

        Raises:
          UserError: it computes other frequencies than where the archive was made.
        """
        wanted, shape = self._wanted, self._wanted.shape
        window_sizes(self._lm.model.config, shape.context, shape.stride)
        walker, differing = Walker(self._lm, shape), changes(wanted.environment, environment())
        if canary(walker, wanted.windows) != wanted.canary:
            nothing = "nothing recorded differs: the compiler chose other kernels, or the header "
            why = "; ".join(differing) or nothing + "was edited"
            reason = f"the model computes other frequencies here than where it compressed ({why})"
            raise UserError("canary", reason, "decompress where the archive was made")
        if differing:
            logger.warning("made elsewhere (%s); the canary agrees", "; ".join(differing))
        return walker

    def decode(self, write: Callable[[bytes], Any], stage: str, progress: Progress) -> None:
        """Decodes all frames.

        Args:
          write: takes the original, part by part; worth nothing before this returns.
          stage: what to call it.
          progress: told how far things are.

        Raises:
          UserError: the archive does not come out as what it was made of.
        """
        digest, done, total = hashlib.sha256(), 0, self.archive.header["size"]
        taken = self.archive.header_size
        for kind, content in self.archive.frames():
            place = (done, min(FRAME, total - done), taken, len(content))

            def report(share: float, _: float, place: tuple[int, int, int, int] = place) -> None:
                done, size, taken, length = place
                progress(stage, done + share * size, total, taken + share * length)

            data = decode_frame(lambda: self.walker, kind, content, report)
            done, taken = done + len(data), taken + len(content)
            if done > total:
                raise damaged("it holds more bytes than it says")
            digest.update(data)
            write(data)
            progress(stage, done, total, taken)
        if done != total or digest.digest() != self.archive.original_digest():
            raise UserError("the archive", "decodes to other bytes than it was made of (SHA-256)")


class _Wanted:
    """What a header asks for; UserError where that cannot be."""

    def __init__(self, header: dict[str, Any]):
        try:
            names = ("lanes", "context", "stride", "groups", "step")
            numbers = [header[name] for name in names]
            if any(type(number) is not int for number in numbers):
                raise damaged("its header asks for what cannot be")
            self.shape, self.step = Shape(*numbers[:-1]), numbers[-1]
            self.windows, self.dtype = bool(header["windows"]), header["dtype"]
            self.environment: dict[str, Any] = dict(header["environment"])
            self.model, self.tokenizer, self.canary = (
                str(header[name]) for name in ("model", "tokenizer", "canary")
            )
        except (KeyError, TypeError, ValueError) as error:
            raise damaged("its header lacks something") from error
        if self.dtype not in ("float32", "bfloat16") or not self.shape.possible:
            raise damaged("its header asks for what cannot be")


def _same(what: str, wanted: str, found: str, run: str | Path) -> None:
    if wanted != found:
        reason = f"its {what} is {found[:16]}, the archive was made with {visible(wanted[:16])}"
        raise UserError(visible(str(run)), reason, "give the run folder that compressed it")
