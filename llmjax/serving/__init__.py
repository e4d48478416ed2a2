"""The HTTP server: loaded runs behind OpenAI's API."""
