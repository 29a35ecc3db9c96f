"""What each endpoint family does. Handlers never import one another."""
