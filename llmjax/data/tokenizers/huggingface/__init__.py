"""Hugging Face tokenizers (tokenizer.json), with the exact bytes of every token."""
