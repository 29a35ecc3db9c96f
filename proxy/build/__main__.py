"""`python -m proxy.build`: make the single file and its bill of materials, try it, and print its size and start time."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, NoReturn

import typer

from proxy.build.assemble import assemble
from proxy.build.bill import pins_of, unpinned, write_bill
from proxy.build.native import BuildError, with_libraries
from proxy.build.parts import python_parts

WARM_STARTS = 5


def main(
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="Where to write it.")] = Path("dist/llm-proxy"),
    constraints: Annotated[Path, typer.Option(metavar="FILE", help="The pinned versions to compare with.")] = Path(
        ".ci/constraints.txt"
    ),
    pinned: Annotated[bool, typer.Option("--pinned", help="Make nothing of versions that are not the pinned ones.")] = False,
) -> None:
    """Make one executable of the gateway, the interpreter that runs this, and all libraries."""
    if sys.platform != "linux":
        _fail("the single file is made on Linux, for Linux")
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        compare(constraints, pinned=pinned)
        parts = with_libraries(python_parts())
        assemble(parts, output)
        bill = output.with_name(f"{output.name}.cdx.json")
        write_bill(parts, bill)
    except BuildError as fault:
        _fail(str(fault))
    except PackageNotFoundError as fault:
        _fail(f"{fault.name} is not installed: pip install '.[package]'")
    unpacked = sum(len(part.content) for part in parts.values())
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB; unpacked {unpacked / 1e6:.1f} MB in {len(parts)} files")
    print(f"{bill}: what is inside")
    first, later = _starts(output)
    print(f"`--version` answers after {first:.2f} s at its first start, which unpacks it, and after {later:.2f} s at others")


def compare(constraints: Path, *, pinned: bool) -> None:
    """Say which packed versions are not the pinned ones, or with ``pinned`` refuse them. Raises: BuildError."""
    if constraints.is_file():
        lines = unpinned(pins_of(constraints.read_text(encoding="utf-8")))
    else:
        lines = [f"{constraints} is not here: nothing is compared with it"]
    if lines and pinned:
        raise BuildError("\n".join(lines))
    for line in lines:
        typer.echo(f"note: {line}", err=True)


def _starts(output: Path) -> tuple[float, float]:
    """Return the seconds of the first start and of the fastest later one. This also tests that the file starts."""
    with TemporaryDirectory(prefix="llm-proxy-build-") as directory:
        environment = os.environ | {"LLM_PROXY_UNPACK_DIR": directory}
        seconds = []
        for _ in range(1 + WARM_STARTS):
            begun = perf_counter()
            subprocess.run([output, "--version"], env=environment, stdout=subprocess.DEVNULL, check=True)
            seconds.append(perf_counter() - begun)
    return seconds[0], min(seconds[1:])


def _fail(reason: str) -> NoReturn:
    typer.echo(reason, err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
