"""Hugging Face folders: configs, weights, tokenizers, task heads."""
