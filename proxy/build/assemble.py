"""Assembly of the executable: an index and one compressed stream, linked into `launcher.c`."""

import hashlib
import os
import shlex
import zlib
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from proxy.build.native import run
from proxy.build.parts import Part

_LAUNCHER = Path(__file__).with_name("launcher.c")
_KEY_DIGITS = 24


def assemble(parts: Mapping[str, Part], output: Path) -> None:
    """Write the executable atomically. It may replace one that is running.

    Raises:
        BuildError: there is no C compiler, or it fails.
    """
    index = "".join(f"{0o755 if part.executable else 0o644:o} {len(part.content)} {name}\n" for name, part in parts.items()).encode()
    content = b"".join(part.content for part in parts.values())
    key = hashlib.sha256(index + content).hexdigest()[:_KEY_DIGITS]
    with TemporaryDirectory(dir=output.parent, prefix=".llm-proxy-") as directory:
        place = Path(directory)
        (place / "index").write_bytes(index)
        (place / "payload").write_bytes(zlib.compress(content, 9))
        inside = [f'-D{name}="{value}"' for name, value in (("KEY", key), ("INDEX", place / "index"), ("PAYLOAD", place / "payload"))]
        compiler = shlex.split(os.environ.get("CC", "cc"))
        run(*compiler, "-Os", "-static", "-s", "-Wall", "-Wextra", *inside, "-o", str(place / "whole"), str(_LAUNCHER), "-lz")
        (place / "whole").replace(output)
