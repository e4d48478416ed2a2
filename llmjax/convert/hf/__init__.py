"""Folders as Hugging Face libraries write them: configs, weights, tokenizers, task heads."""
