"""Search: an index of documents, hybrid retrieval, answers with sources."""
