"""Tables of examples: CSV, TSV, JSONL, Parquet and TFDS, row by row."""
