"""The limit of open files: thousands of streams are thousands of sockets."""

import resource


def raise_open_files() -> int:
    """Raise the soft limit of open files to the hard one and return it. Children inherit it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
