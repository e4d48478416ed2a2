"""Tasks: fine-tuning on examples, from table rows to losses and metrics."""
