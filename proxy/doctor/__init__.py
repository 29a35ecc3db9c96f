"""`llm-proxy doctor`: what commonly breaks an installation, looked at without spending or changing anything."""
