"""Video tasks: what may be asked, what it costs, and how a task moves."""
