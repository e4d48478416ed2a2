"""Where an index is kept: one file a database."""
