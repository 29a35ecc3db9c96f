"""`llm-proxy doctor`: checks for common faults of an installation. It spends nothing and changes nothing."""
