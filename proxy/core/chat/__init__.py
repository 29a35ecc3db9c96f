"""Chat calls: the request, the answer as it passes, and its cost."""
