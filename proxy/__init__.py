"""llm-proxy: an OpenAI-compatible gateway in front of Volcengine Ark. The map is in README.md beside this file."""

__version__ = "0.1.0"
