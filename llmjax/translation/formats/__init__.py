"""Formats of documents: one file each, and one line in `document.FORMATS`."""
