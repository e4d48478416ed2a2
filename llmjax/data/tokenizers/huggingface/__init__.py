"""tokenizer.json, with the exact bytes behind every token."""
