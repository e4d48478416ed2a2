"""Text: sources -> documents -> stored tokens."""
