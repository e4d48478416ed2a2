"""Translation of documents with a sequence-to-sequence run."""
