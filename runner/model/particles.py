"""Particles and their optics groups, as a struct of arrays that keeps every column it was read with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from runner.model.state import FloatArray, IntArray, PoseState

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Optics:
    """One optics group.

    Attributes
    ----------
    group : number by which the particles refer to it (rlnOpticsGroup).
    pixel_size_angst, image_size : voxel size and box size in voxels of its particle volumes.
    ctf_premultiplied : whether the volumes are already multiplied by their CTF (rlnCtfDataAreCtfPremultiplied).
    columns : all columns of its row by label, verbatim and in file order, then those that were completed on reading.
    ctf_squared : whether its CTF volumes hold the squared CTF (RELION's rule from version 4 on for premultiplied data).
    """

    group: int
    name: str
    pixel_size_angst: float
    image_size: int
    ctf_premultiplied: bool
    columns: dict[str, str]
    ctf_squared: bool = False


@dataclass
class ParticleTable:
    """The particles of a run, stably sorted by micrograph name.

    Attributes
    ----------
    optics, optics_index : the optics groups, and for each particle its position in that list.
    columns : every input column verbatim and in input order, by label, rows sorted as the rest.
    image_names, ctf_names : as in the STAR file; image_urls, ctf_urls : where these were found; None without CTFs.
    angles_deg : (n, 3) rot, tilt, psi of the reference in the particle volume.
    origins_angst : (n, 3) x, y, z: the shift that centres the particle.
    angle_priors_deg : (n, 3), NaN where absent; origin_priors_angst : (n, 3), zero where absent.
    class_number : (n,) 1-based, 0 for none; random_subset : (n,) 1 or 2, 0 for none; norm_correction : (n,).
    group_names : names of the noise and scale groups; group_index : (n,) position in that list.
    row_number : (n,) 1-based row of the particle in the file, for messages.
    notes : one line for each thing that was assumed while reading.
    dialect : version of RELION whose conventions the file follows: 3.0, 3.1, 4 or 5.
    store : URL of the particle store that holds the volumes; empty where they are in the files that the table names.
    """

    optics: list[Optics]
    optics_index: IntArray
    columns: dict[str, list[str]]
    image_names: list[str]
    image_urls: list[str]
    ctf_names: list[str] | None
    ctf_urls: list[str] | None
    angles_deg: FloatArray
    origins_angst: FloatArray
    angle_priors_deg: FloatArray
    origin_priors_angst: FloatArray
    class_number: IntArray
    random_subset: IntArray
    norm_correction: FloatArray
    micrograph_names: list[str] | None
    group_names: list[str]
    group_index: IntArray
    row_number: IntArray
    source: str = ""
    notes: list[str] = field(default_factory=list)
    dialect: str = "3.1"
    store: str = ""

    def __len__(self) -> int:
        return len(self.image_names)

    def describe(self, particle: int) -> str:
        """Where particle ``particle`` comes from, for messages."""
        return f"{self.source} row {self.row_number[particle]} ({self.image_names[particle]})"

    def select(self, index: npt.NDArray[np.integer] | npt.NDArray[np.bool_] | Sequence[int]) -> ParticleTable:
        """The particles at ``index`` (positions or a mask) in that order; optics and groups keep their numbers."""
        rows = np.arange(len(self))[np.asarray(index)]

        def take(values: list[str]) -> list[str]:
            return [values[row] for row in rows]

        def take_optional(values: list[str] | None) -> list[str] | None:
            return None if values is None else take(values)

        return ParticleTable(
            optics=list(self.optics),
            optics_index=self.optics_index[rows],
            columns={label: take(values) for label, values in self.columns.items()},
            image_names=take(self.image_names),
            image_urls=take(self.image_urls),
            ctf_names=take_optional(self.ctf_names),
            ctf_urls=take_optional(self.ctf_urls),
            angles_deg=self.angles_deg[rows],
            origins_angst=self.origins_angst[rows],
            angle_priors_deg=self.angle_priors_deg[rows],
            origin_priors_angst=self.origin_priors_angst[rows],
            class_number=self.class_number[rows],
            random_subset=self.random_subset[rows],
            norm_correction=self.norm_correction[rows],
            micrograph_names=take_optional(self.micrograph_names),
            group_names=list(self.group_names),
            group_index=self.group_index[rows],
            row_number=self.row_number[rows],
            source=self.source,
            notes=list(self.notes),
            dialect=self.dialect,
            store=self.store,
        )

    def poses(self) -> PoseState:
        """The assignment the particles were read with, as the start of a run."""
        count = len(self)
        return PoseState(
            angles_deg=self.angles_deg.copy(),
            origins_angst=self.origins_angst.copy(),
            class_number=self.class_number.copy(),
            random_subset=self.random_subset.copy(),
            norm_correction=self.norm_correction.copy(),
            log_likelihood=np.zeros(count),
            pmax=np.zeros(count),
            significant_samples=np.zeros(count, dtype=np.int64),
        )
