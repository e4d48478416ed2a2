"""Chat templates: messages to the text format that a model was trained on."""
