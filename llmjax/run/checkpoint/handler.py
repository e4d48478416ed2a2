"""An Orbax handler of which each process computes the checksums of what it wrote."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from llmjax.run.checkpoint.files import write_part


class SummingHandler(ocp.CompositeCheckpointHandler):
    """Saves and restores items as its base class does.

    When a process has written its files it sums them, in the background, before process 0 merges
    the files of all. (Orbax calls what follows, as the callback after finalization, in process 0
    alone.)
    """

    async def async_save(self, directory: Any, args: ocp.args.Composite) -> list[ocp.future.Future]:
        """Starts writing; the future ends when the files are written and summed."""
        written = await super().async_save(directory, args) or []
        return [ocp.future.ChainedFuture(written, lambda: write_part(Path(directory)))]


@ocp.args.register_with_handler(SummingHandler, for_save=True, for_restore=True)
class SummedItems(ocp.args.Composite):
    """Items by name; Orbax requires a class of arguments for each handler."""
