"""Video tasks: the request, its cost, and the states of a task."""
