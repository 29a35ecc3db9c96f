"""Decisions: pure functions and frozen values. Nothing here awaits, reads a clock, draws entropy or knows HTTP or SQL."""
