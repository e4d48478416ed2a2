"""Inference with a loaded run: generation, chat, embeddings, masks."""
