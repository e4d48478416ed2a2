"""What is said of an archive that cannot be right."""

from llmjax.errors import UserError


def damaged(reason: str) -> UserError:
    """The error for an archive that no writer of this format can have made."""
    return UserError("the archive", f"is damaged: {reason}", "get it again from where it came")
