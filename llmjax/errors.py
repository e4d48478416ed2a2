"""What is raised on purpose: a user's mistake, and a stop that was asked for."""


class UserError(Exception):
    """A mistake of the user's: what is wrong, why, and how to mend it.

    The command line prints it as one line and exits with code 2.

    Args:
      thing: what is wrong: a path, a field, a tensor's name.
      reason: why it cannot be used, in a few words.
      fix: what to do about it; may be empty when the reason says it all.
    """

    def __init__(self, thing: object, reason: str, fix: str = ""):
        self.thing, self.reason, self.fix = str(thing), reason, fix
        line = f"{self.thing}: {reason}" + (f"; {fix}" if fix else "")
        super().__init__(" ".join(line.split()))


class Stopped(Exception):
    """Training was stopped by a signal; the same command goes on.

    The command line exits with code 75.

    Args:
      step: of the checkpoint that was saved.
      signal: what came, such as "SIGTERM".
    """

    def __init__(self, step: int, signal: str):
        self.step, self.signal = step, signal
        super().__init__(f"{signal}: saved step {step}; start the same command again to go on")
