"""Tokenizers behind one interface: SentencePiece, Hugging Face and bytes."""
