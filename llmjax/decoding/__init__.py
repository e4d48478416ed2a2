"""Text generation: prompts -> rows -> tokens -> completions."""
