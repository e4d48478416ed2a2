"""The one exception that a user's mistake raises."""


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
