"""Readers of documents: one file a format, and one line in `document.READERS`."""
