"""`llm-proxy top`: a live view of a running gateway on a terminal, made from its metrics."""
