"""Tables of examples, read row by row: CSV, TSV, JSONL, JSON, Parquet, parallel text, TFDS."""
