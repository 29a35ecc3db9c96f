"""Clients of the upstreams: `http1` for chat, the hot path; `ark_client` for images and videos."""
