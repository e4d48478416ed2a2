"""A loaded run at work: text, chat, vectors, masks."""
