"""GGUF files: read as published models, and written for llama.cpp."""
