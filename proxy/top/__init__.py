"""`llm-proxy top`: what a running gateway does, live on a terminal, by its own metrics."""
