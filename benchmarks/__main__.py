"""The benchmarks of this folder: list them, run one, or run all that need no arguments.

    python -m benchmarks                         # all that need nothing, one after another
    python -m benchmarks --list
    python -m benchmarks ssd_inference --threads 1

Each is a script of its own; its first lines say what is compared and how it is called.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Benchmark:
    name: str
    about: str  # the first sentence of what it says of itself
    usage: str
    needs: str  # arguments without which it does not run

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.py"


def found() -> list[Benchmark]:
    """Every script here that says how it is called."""
    benchmarks = []
    for path in sorted(FOLDER.glob("[!_]*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        usage = re.search(rf"python (benchmarks/{path.name}(?:.*\\\n)*.*)", text)
        if usage is None:
            continue  # a module that others use
        line = re.sub(r"\s*\\\n\s*", " ", usage[1])
        needs = re.sub(r"\[[^\[\]]*\]", "", line).split(maxsplit=1)[1:]
        about = " ".join(text.split("\n\n")[0].split())
        benchmarks.append(Benchmark(path.stem, about, line, "".join(needs).strip()))
    return benchmarks


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", help="one benchmark; what follows is for it")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.add_argument("--list", action="store_true", help="say which there are")
    options = parser.parse_args()
    known = {one.name: one for one in found()}
    if options.list:
        for one in known.values():
            print(f"{one.name}: {one.about}\n    python {one.usage}")
        return
    if options.name is not None:
        if options.name not in known:
            sys.exit(f"no benchmark {options.name}; there are {', '.join(known)}")
        command = [sys.executable, str(known[options.name].path), *options.rest]
        sys.exit(subprocess.run(command, check=False).returncode)
    failed = []
    for one in known.values():
        if one.needs:
            print(f"\n== {one.name}: needs {one.needs}", flush=True)
            continue
        print(f"\n== {one.name}: {one.about}", flush=True)
        if subprocess.run([sys.executable, str(one.path)], check=False).returncode:
            failed.append(one.name)
    if failed:
        sys.exit(f"\nfailed or short of their targets: {', '.join(failed)}")


if __name__ == "__main__":
    main()
