"""Import and export GGUF files, the format of llama.cpp."""
