"""Run the project's commands on a data set of known truth and print one row of docs/accuracy.md for each run.

``python -m tests.accuracy.run DATA_FOLDER OUT_FOLDER global --seeds 1 2 3 [-- --any --further --flags]``.  The
reference is reconstructed from the input poses, as for RELION's figures.  ``--relion`` runs RELION (MPI) in
place of tomoburst and ``--noise-share 0.05`` replaces that share of the particles by noise of the same spread.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

from tests.accuracy.evaluate import HEADER, evaluate
from tests.parity.compare import read_map, read_star
from tests.parity.dataset import write_mrc
from tests.parity.programs import MPI, TOMOBURST, execute

AUTO = (
    "--auto_refine --split_random_halves --i particles.star --ref rec.mrc --firstiter_cc --ini_high 60 "
    "--dont_combine_weights_via_disc --pool 3 --pad 2 --flatten_solvent --zero_mask --oversampling 1 "
    "--auto_local_healpix_order 4 --offset_range 5 --offset_step 2 --sym C1 --low_resol_join_halves 40 --norm --scale"
)
COMMANDS = {
    "global": f"{AUTO} --ctf --healpix_order 2",
    "local": f"{AUTO} --healpix_order 4",
    "local-ctf": f"{AUTO} --ctf --healpix_order 4",
    "classes": (
        "--i particles.star --ref rec.mrc --ctf --K 2 --healpix_order 3 --sigma_ang 5 --iter 12 --tau2_fudge 2 "
        "--ini_high 60 --firstiter_cc --pad 2 --flatten_solvent --zero_mask --oversampling 1 --offset_range 5 "
        "--offset_step 2 --scale"
    ),
}
DIAMETER_ANGST = {"ribosomes_20A": 280}


def prepare(data: Path, folder: Path, noise_share: float) -> None:
    """Link the data set into ``folder``, replace some particles by noise, and reconstruct the reference."""
    if (folder / "rec.mrc").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("particles.star", "ctf", "wedge.mrc"):
        if (data / name).exists():
            (folder / name).symlink_to((data / name).resolve())
    optics = read_star(data / "particles.star")["optics"].columns
    random = np.random.default_rng(1)
    (folder / "subtomo").mkdir()
    for path in sorted((data / "subtomo").iterdir()):
        target = folder / "subtomo" / path.name
        if random.random() < noise_share:
            volume = read_map(path)
            noise = random.normal(volume.mean(), volume.std(), volume.shape)
            write_mrc(target, noise, float(optics["rlnImagePixelSize"][0]))
        else:
            target.symlink_to(path.resolve())
    execute([*TOMOBURST, "reconstruct", "--3d_rot", "--ctf", "--i", "particles.star", "--o", "rec.mrc"], folder)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", default="2")
    parser.add_argument("--relion", action="store_true")
    parser.add_argument("--noise-share", type=float, default=0.0)
    options, further = parser.parse_known_args()
    prepare(options.data, options.folder, options.noise_share)
    diameter = str(DIAMETER_ANGST.get(options.data.resolve().name, 250))
    arguments = [*COMMANDS[options.command].split(), "--particle_diameter", diameter]
    print(HEADER, flush=True)
    for seed in options.seeds:
        name = f"{options.command}{'-relion' if options.relion else ''}-{seed}"
        shutil.rmtree(options.folder / name, ignore_errors=True)
        (options.folder / name).mkdir()
        program = [*TOMOBURST, "refine"]
        if options.relion:
            program = [*MPI, "relion_refine_mpi"] if "--auto_refine" in arguments else ["relion_refine"]
        threads = "1" if options.relion else options.threads
        rest = ["--random_seed", str(seed), "--j", threads, *(flag for flag in further if flag != "--")]
        execute([*program, "--o", f"{name}/run", *arguments, *rest], options.folder, timeout_s=None)
        print(evaluate(options.data, options.folder / name / "run").row(name), flush=True)


if __name__ == "__main__":
    main()
