"""Decodes an archive with the model that made it, after checking that it computes the same."""

import hashlib
import logging
import time
from collections.abc import Callable
from functools import cached_property
from os import PathLike
from typing import Any

from llmjax.compression.archive import MODEL, Archive
from llmjax.compression.codec import CodecStepper, StreamLayout
from llmjax.compression.fingerprint import differences, environment, model_fingerprint
from llmjax.compression.frames import FRAME, decode_frame
from llmjax.compression.header import damaged
from llmjax.compression.plan import check_memory
from llmjax.compression.progress import Progress
from llmjax.compression.streams import determinism_hash
from llmjax.errors import UserError, printable
from llmjax.inference.language_model import load
from llmjax.scoring.documents import window_sizes

logger = logging.getLogger(__name__)


class Decoder:
    """Decodes one archive.

    Attributes:
      archive: the archive.
      start_seconds: time to load and check the model.
    """

    def __init__(self, run: str | PathLike[str], archive: Archive):
        """Args:
          run: the run folder.
          archive: open for reading.

        Raises:
          UserError: the archive is damaged, the run is missing or has another model or tokenizer,
            or the model computes other frequencies on this machine.
        """
        began, self.archive = time.perf_counter(), archive
        self._needs = _Requirements(self.archive.header)
        try:
            self._lm = load(run, step=self._needs.step, dtype=self._needs.dtype)
        except UserError as error:
            fix = f"{error.fix}; an archive opens only with the run that made it, or a copy"
            raise UserError(error.thing, error.reason, fix.removeprefix("; ")) from error
        _check("tokenizer", self._needs.tokenizer, self._lm.tokenizer.fingerprint, run)
        _check("model", self._needs.model, model_fingerprint(self._lm), run)
        if MODEL in self.archive.kinds():
            self.stepper  # noqa: B018 (checks determinism before decoding the first frame)
        self.start_seconds = time.perf_counter() - began

    @cached_property
    def stepper(self) -> CodecStepper:
        """The stepper of the archive's layout.

        Raises:
          UserError: its frequencies differ from the encoder's.
        """
        needs, layout, config = self._needs, self._needs.layout, self._lm.model.config
        window_sizes(config, layout.context, layout.stride)
        check_memory(config, layout)
        stepper = CodecStepper(self._lm, layout)
        differing = differences(needs.environment, environment())
        if determinism_hash(stepper, needs.windows) != needs.determinism_hash:
            unexplained = "nothing recorded differs: the compiler chose other kernels, or the "
            cause = "; ".join(differing) or unexplained + "header was edited"
            reason = f"the model's frequencies differ from the encoder's ({cause})"
            fix = "decompress on the machine where the archive was made"
            raise UserError("determinism check", reason, fix)
        if differing:
            logger.warning(
                "the archive was made in another environment (%s); the determinism check passed",
                "; ".join(differing),
            )
        return stepper

    def decode(self, write: Callable[[bytes], Any], stage: str, progress: Progress) -> None:
        """Decodes all frames.

        Args:
          write: called with consecutive blocks of the original, unverified until this returns.
          stage: name of the stage, for `progress`.
          progress: called with the progress of decoding.

        Raises:
          UserError: the result differs from the original.
        """
        digest, done, total = hashlib.sha256(), 0, self.archive.header["size"]
        consumed = self.archive.header_size
        for kind, content in self.archive.frames():
            state = (done, min(FRAME, total - done), consumed, len(content))

            def report(share: float, _: float, state: tuple[int, int, int, int] = state) -> None:
                done, size, consumed, length = state
                progress(stage, done + share * size, total, consumed + share * length)

            data = decode_frame(lambda: self.stepper, kind, content, report)
            done, consumed = done + len(data), consumed + len(content)
            if done > total:
                raise damaged("it decodes to more bytes than its header states")
            digest.update(data)
            write(data)
            progress(stage, done, total, consumed)
        if done != total or digest.digest() != self.archive.original_digest():
            raise UserError("the archive", "does not decode to the original (SHA-256 differs)")


class _Requirements:
    """The fields of a header that decoding needs; raises UserError if one is missing or invalid."""

    def __init__(self, header: dict[str, Any]):
        try:
            names = ("streams", "context", "stride", "groups", "step")
            *shape, step = (header[name] for name in names)
            if any(type(value) is not int for value in (*shape, step)):
                raise damaged("a field of its header is invalid")
            self.layout, self.step = StreamLayout(*shape), step
            self.windows, self.dtype = bool(header["windows"]), header["dtype"]
            self.environment: dict[str, Any] = dict(header["environment"])
            self.model, self.tokenizer, self.determinism_hash = (
                str(header[name]) for name in ("model", "tokenizer", "determinism_hash")
            )
        except (KeyError, TypeError, ValueError) as error:
            raise damaged("a field of its header is missing or invalid") from error
        if self.dtype not in ("float32", "bfloat16") or not self.layout.valid:
            raise damaged("a field of its header is invalid")


def _check(what: str, expected: str, actual: str, run: str | PathLike[str]) -> None:
    if expected != actual:
        reason = f"its {what} is {actual[:16]}, the archive needs {printable(expected[:16])}"
        raise UserError(printable(str(run)), reason, "give the run folder that compressed it")
