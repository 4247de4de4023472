"""Every figure of the pages on performance, by one command.

``python -m tests.benchmarks DATA_FOLDER [--only NAME ...] [--repeats 3] [--relion5 FOLDER] [--limit 100]`` runs the
modules of this folder in turn and prints their Markdown, each under the page it belongs to and the command that makes
it alone.  ``DATA_FOLDER`` is `sim_small_40`.  With all of it, that is hours, nearly all of them RELION's.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

PLACE = "PLACE"  # stands for a folder that is made and removed
PAGES = {
    "paired": "docs/benchmarks.md",
    "estep": "docs/benchmarks.md",
    "growth": "docs/benchmarks.md",
    "memory": "docs/plan.md",
    "plan_check": "docs/plan.md",
    "storage": "docs/storage.md",
    "particle_store": "docs/ingest.md",
    "scale": "docs/scale.md",
    "scale_table": "docs/scale.md",
}


def arguments(name: str, options: argparse.Namespace) -> list[str]:
    """Arguments of one module."""
    data, repeats = str(options.data.resolve()), str(options.repeats)
    paired = ["--repeats", repeats, "--limit", f"{options.limit:g}"]
    if options.relion5:
        paired += ["--relion5", str(options.relion5.resolve())]
    return {
        "paired": [data, *paired],
        "estep": [data, "--repeats", repeats],
        "growth": ["--repeats", repeats],
        "memory": [data],
        "plan_check": [data],
        "storage": [data, "--rounds", repeats],
        "particle_store": [PLACE],
        "scale": [PLACE],
        "scale_table": [PLACE],
    }[name]


def run(name: str, options: argparse.Namespace) -> bool:
    """Run one module under a heading; whether it came to its end."""
    words = arguments(name, options)
    print(f"\n## {name} ({PAGES[name]})\n\n    python -m tests.benchmarks.{name} {' '.join(words)}\n", flush=True)
    with tempfile.TemporaryDirectory() as place:
        words = [place if word == PLACE else word for word in words]
        code = subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}", *words], check=False).returncode
    if code:
        print(f"\n{name} failed with exit code {code}", flush=True)
    return code == 0


def main() -> int:
    """Run what was asked for, all of it, and tell by the exit code whether something failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of particles.star")
    parser.add_argument("--only", nargs="*", default=list(PAGES), choices=list(PAGES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--relion5", type=Path, help="folder of RELION 5's programs")
    parser.add_argument("--limit", type=float, default=100.0, help="stop RELION after so many times our wall time")
    options = parser.parse_args()
    succeeded = [run(name, options) for name in options.only]
    return 0 if all(succeeded) else 1


if __name__ == "__main__":
    sys.exit(main())
