"""How well a model predicts text: documents -> windows -> rows -> exact sums."""
