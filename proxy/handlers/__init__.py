"""Handlers, one module for each endpoint family. They never import one another."""
