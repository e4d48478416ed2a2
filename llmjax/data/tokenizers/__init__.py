"""Tokenizers: SentencePiece, Hugging Face, trained or imported, behind one interface."""
