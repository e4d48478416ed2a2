"""How text is continued: prompts -> rows -> tokens -> completions."""
