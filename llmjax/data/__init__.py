"""Sources -> documents -> tokens -> packed rows -> global batches.

Grain, TFDS, SentencePiece and the like are known here alone, and imported where they are used.
Importing this package, or its configs, is cheap: the rest is loaded when first asked for.
"""
