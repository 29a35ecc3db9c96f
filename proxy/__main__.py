"""`llm-proxy` and `python -m proxy`: the command line, on a system that it runs on."""

import sys


def main() -> None:
    """Run the command line. Windows is refused in words: the imports below fail there, first of all for want of ``fcntl``."""
    if sys.platform == "win32":
        sys.exit("llm-proxy does not run on Windows itself: run it on Linux, in WSL 2 (wsl --install) or in a container.")
    from proxy.cli import main as run  # noqa: PLC0415  only now

    run()


if __name__ == "__main__":
    main()
