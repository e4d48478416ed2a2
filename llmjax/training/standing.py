"""Where a start of a run stands, for what is said when it ends before its time."""

from dataclasses import dataclass


@dataclass
class Standing:
    """Changes as the run goes on; other threads read it."""

    step: int = 0
    """The step that is being taken, or was taken last."""
    saved: int | None = None
    """The newest checkpoint; None: there is none."""
    trained: bool = False
    """Whether this start has finished a step."""
    measuring: str = ""
    """What is being measured or written after the step, in a few words; empty: nothing."""

    def doing(self) -> str:
        """What is under way, as "finishing step 4"."""
        if self.measuring:
            return f"leaving the {self.measuring} of step {self.step}"
        return f"finishing step {self.step}"

    def lost(self) -> str:
        """What is lost without a further checkpoint, in the plural."""
        return "all steps" if self.saved is None else f"the steps since checkpoint {self.saved}"

    def kept(self) -> str:
        """What there is, where this start has trained nothing."""
        if self.saved is None:
            return "nothing was trained yet"
        return f"nothing was trained since checkpoint {self.saved}"

    def resumes(self) -> str:
        """Where the same command goes on."""
        command = "start the same command again to"
        if self.saved is None:
            return f"{command} begin again"
        return f"{command} resume from step {self.saved}"
