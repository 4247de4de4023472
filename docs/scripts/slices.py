"""Central slices of maps in a row, for the pictures of the documentation.

    python docs/scripts/slices.py MAP [MAP ...] -o PICTURE.png [--labels a,b] [--axis z|y|x]

Needs matplotlib (the ``dev`` extra).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import mrcfile
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

AXES = {"z": 0, "y": 1, "x": 2}
INCHES = 2.2


def central_slice(path: Path, axis: str) -> np.ndarray:
    """Plane of a map through its centre, at right angles to ``axis``."""
    volume = mrcfile.read(path).astype(np.float64)
    return np.asarray(np.take(volume, volume.shape[AXES[axis]] // 2, axis=AXES[axis]))


def draw(paths: list[Path], labels: list[str], axis: str, picture: Path) -> None:
    """Draw one slice a map, side by side, density bright; each from its own 1st to its 99.8th percentile."""
    figure, panels = plt.subplots(1, len(paths), figsize=(INCHES * len(paths), INCHES * 1.1), squeeze=False)
    for panel, path, label in zip(panels[0], paths, labels, strict=True):
        plane = central_slice(path, axis)
        dark, bright = np.percentile(plane, [1.0, 99.8])
        panel.imshow(plane, cmap="gray", vmin=dark, vmax=bright, origin="lower", interpolation="bicubic")
        panel.set_title(label, fontsize=8)
        panel.set_axis_off()
    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=150, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """Read the arguments and draw."""
    parser = argparse.ArgumentParser(description="Central slices of maps in a row.")
    parser.add_argument("maps", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--labels", default="", help="one label a map, separated by commas (default: file names)")
    parser.add_argument("--axis", choices=AXES, default="z")
    arguments = parser.parse_args()
    labels = arguments.labels.split(",") if arguments.labels else [path.name for path in arguments.maps]
    if len(labels) != len(arguments.maps):
        parser.error(f"{len(labels)} labels were given for {len(arguments.maps)} maps")
    draw(arguments.maps, labels, arguments.axis, arguments.output)


if __name__ == "__main__":
    main()
