"""Sources -> documents -> tokens -> packed rows -> global batches.

Grain, TFDS, SentencePiece and the like are imported in this package only, and only when used:
importing it or its configs is cheap.
"""
