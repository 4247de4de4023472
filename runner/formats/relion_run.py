"""The STAR files of a run as RELION lays them out: their names, their texts, and a run read back to be continued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from runner.errors import InputError
from runner.formats.relion_model import ModelFile, model_text, parse_model
from runner.formats.relion_optimiser import OptimiserFile, RunFiles, optimiser_text, parse_optimiser
from runner.formats.relion_sampling import parse_sampling, sampling_text
from runner.model.state import FloatArray, RunState, SamplingState, ScheduleState
from runner.store import objects


@dataclass(frozen=True)
class RunNames:
    """Names of the files of one iteration of the run ``root``.

    Attributes
    ----------
    halves : two half models, as in every iteration of an auto-refinement but the last.
    final : the last, joined iteration of an auto-refinement, whose names carry no number.
    """

    root: str
    iteration: int
    halves: bool = False
    final: bool = False

    @property
    def prefix(self) -> str:
        """What all names start with."""
        return self.root if self.final else f"{self.root}_it{self.iteration:03d}"

    @property
    def data(self) -> str:
        """The particles and their poses."""
        return f"{self.prefix}_data.star"

    @property
    def optimiser(self) -> str:
        """The settings and counters, from which a run is continued."""
        return f"{self.prefix}_optimiser.star"

    @property
    def sampling(self) -> str:
        """The coarse sampling."""
        return f"{self.prefix}_sampling.star"

    def model(self, half: int = 0) -> str:
        """The model of half set ``half`` (0-based)."""
        return f"{self._half_prefix(half)}_model.star"

    def reference(self, half: int = 0, index: int = 0) -> str:
        """The map of class ``index`` (0-based) of half set ``half``."""
        return f"{self._half_prefix(half)}_class{index + 1:03d}.mrc"

    def angular_distribution(self, half: int = 0, index: int = 0) -> str:
        """The BILD file of class ``index`` of half set ``half``."""
        return f"{self._half_prefix(half)}_class{index + 1:03d}_angdist.bild"

    def unfiltered(self, half: int, index: int = 0) -> str:
        """The unregularised map of half set ``half``, whether the halves are joined or not."""
        return f"{self.prefix}_half{half + 1}_class{index + 1:03d}_unfil.mrc"

    def _half_prefix(self, half: int) -> str:
        return f"{self.prefix}_half{half + 1}" if self.halves else self.prefix


@dataclass(frozen=True)
class ResumedRun:
    """A run of RELION or of this program, read from its STAR files.

    Attributes
    ----------
    settings : RELION flag -> value; ``o`` is the root of that run.
    models : one or two; their references are still to be read from ``reference_urls``, one list a model.
    directions_deg : (D, 2) rot, tilt of the coarse directions, as printed.
    data_url : the particles with their poses.
    """

    iteration: int
    settings: dict[str, object]
    schedule: ScheduleState
    sampling: SamplingState
    directions_deg: FloatArray
    models: list[ModelFile]
    reference_urls: list[list[str]]
    data_url: str
    references_are_ctf_corrected: bool


def run_texts(
    state: RunState,
    settings: Mapping[str, object],
    names: RunNames,
    *,
    pixel_size_angst: float,
    group_names: Sequence[str],
    directions_deg: FloatArray,
    command: str = "",
) -> dict[str, str]:
    """The model, sampling and optimiser STAR files of ``state``: text by file name, the optimiser last.

    Parameters
    ----------
    settings : see `optimiser_text` and `model_text`.
    directions_deg : (D, 2) rot, tilt of the coarse directions.
    """
    texts = {}
    for half, model in enumerate(state.halves):
        references = [names.reference(half, index) for index in range(len(model.pdf_class))]
        texts[names.model(half)] = model_text(
            model,
            settings,
            pixel_size_angst=pixel_size_angst,
            reference_names=references,
            group_names=group_names,
        )
    texts[names.sampling] = sampling_text(state.sampling, directions_deg)
    files = RunFiles(names.model(), names.model(1) if names.halves else "", names.data, names.sampling)
    texts[names.optimiser] = optimiser_text(state, {**settings, "o": names.root}, files, command=command)
    return texts


def read_run(url: str) -> ResumedRun:
    """Read the run whose optimiser.star is at ``url``.

    File names are looked up beside the file that holds them, then from the working directory, to which RELION's refer,
    then by their last part beside the optimiser.star, where a copied run has them.

    Raises
    ------
    InputError
        When a file is missing, malformed or does not fit the others.
    """
    optimiser = parse_optimiser(_read_text(url), url)
    model_urls = [_locate(name, url) for name in (optimiser.files.model, optimiser.files.model2) if name]
    models = [parse_model(_read_text(model_url), model_url) for model_url in model_urls]
    sampling_url = _locate(optimiser.files.sampling, url)
    sampling, directions = parse_sampling(_read_text(sampling_url), sampling_url)
    for model, model_url in zip(models, model_urls, strict=True):
        if model.half.pdf_direction.shape[1] != len(directions):
            raise InputError(
                f"{model_url}: {model.half.pdf_direction.shape[1]} directions, but {sampling_url} has "
                f"{len(directions)}; take both from the same iteration"
            )
    return ResumedRun(
        iteration=optimiser.iteration,
        settings=_settings(optimiser, models[0], sampling),
        schedule=replace(
            optimiser.schedule,
            current_resolution=models[0].half.current_resolution,
            current_size=models[0].half.current_size,
        ),
        sampling=sampling,
        directions_deg=directions,
        models=models,
        reference_urls=[[_locate(name, url) for name in model.reference_names] for model in models],
        data_url=_locate(optimiser.files.data, url),
        references_are_ctf_corrected=optimiser.references_are_ctf_corrected,
    )


def _settings(optimiser: OptimiserFile, model: ModelFile, sampling: SamplingState) -> dict[str, object]:
    """All that the files keep of the flags; those of the sampling are the first iteration's, offsets in pixels."""
    return {
        **optimiser.settings,
        **model.settings,
        "sym": sampling.symmetry,
        "limit_tilt": sampling.limit_tilt_deg,
        "perturb": sampling.perturbation_factor,
        "healpix_order": sampling.healpix_order_original,
        "psi_step": sampling.psi_step_original_deg,
        "offset_range": sampling.offset_range_original_angst / model.pixel_size_angst,
        "offset_step": sampling.offset_step_original_angst / model.pixel_size_angst,
    }


def _read_text(url: str) -> str:
    try:
        return objects.read_bytes(url).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{url}: is not a text file; a STAR file was expected") from error


def _locate(name: str, url: str) -> str:
    beside = objects.join(objects.parent(url), objects.basename(name))
    try:
        return objects.resolve(name, url)
    except InputError:
        if objects.exists(beside):
            return beside
        raise
