"""How the positions of a scan lie in the axes of its frames: mirrored, exchanged, turned by any angle, scaled.

Two ways that need each other. The centre of mass of a frame is the gradient of the sample's phase, smoothed by the
probe, and a gradient has no curl: that tells handedness and angle in milliseconds, at any spacing of the positions, but
no scale and no sign, and astigmatism of the probe turns it by some degrees. Fits of a few frames from vacuum
(`ptycho.diagnostics.orientation`) tell the rest, where the probe is known, or nearly so after its focus was looked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ptycho.arrays import Array, Bool, Complex, Float, Int
from ptycho.data.frames import chunks, mapped
from ptycho.data.scan import Scan
from ptycho.diagnostics.orientation import NAMES, Trial, defocused, fit_errors, middle_of, turned
from ptycho.diagnostics.statistics import mean_over_error, scatter_of_mean

Matrix = tuple[tuple[float, float], tuple[float, float]]
IDENTITY: Matrix = ((1.0, 0.0), (0.0, 1.0))
FLIPS: dict[str, Matrix] = {
    "as they are": IDENTITY,
    "mirrored in x": ((1.0, 0.0), (0.0, -1.0)),
    "mirrored in y": ((-1.0, 0.0), (0.0, 1.0)),
    "turned by 180 degrees": ((-1.0, 0.0), (0.0, -1.0)),
    "exchanged, y for x": ((0.0, 1.0), (1.0, 0.0)),
    "exchanged and mirrored in x": ((0.0, 1.0), (-1.0, 0.0)),
    "exchanged and mirrored in y": ((0.0, -1.0), (1.0, 0.0)),
    "exchanged and turned by 180 degrees": ((0.0, -1.0), (-1.0, 0.0)),
}
"""What may become of positions (y, x)."""


class Curl(NamedTuple):
    """What the centres of mass of the frames tell of the geometry."""

    mirrored: bool
    """The positions' handedness is not that of the frames."""
    angle_deg: float
    """By which positions, after y and x were exchanged where ``mirrored``, are turned; modulo 180."""
    error_deg: float
    decided: bool
    """The two kinds of handedness differ by three standard deviations."""

    @property
    def map(self) -> Matrix:
        """The map of the positions, but for its scale and sign; of the two signs the one nearer to none."""
        turn = rotation(self.angle_deg)
        return as_matrix(turn @ np.array(FLIPS["exchanged, y for x"])) if self.mirrored else as_matrix(turn)


class Guess(NamedTuple):
    """What becomes of a guessed probe."""

    defocus_rad: float = 0.0
    """Moved along the beam by so much."""
    conjugate: bool = False
    """And to the other side of the focus."""

    def of(self, probe: Complex[Array, "M N N"]) -> Complex[Array, "M N N"]:
        probe = defocused(probe, self.defocus_rad)
        return other_side(probe) if self.conjugate else probe


def other_side(probe: Complex[Array, "M N N"]) -> Complex[Array, "M N N"]:
    """A probe on the other side of its focus: ``conj(P(-r))``, which has the conjugate spectrum.

    As ``|F(P O)|^2(-k) = |F(P* O*)|^2(k)``, frames fit with it as with positions turned by 180 degrees.
    """
    return turned(probe.conj(), 3)


class Geometry(NamedTuple):
    """The map under which the frames of a scan fit each other best."""

    trial: Trial
    gain: float
    """By which the error of the positions and frames as they are is larger."""
    margin: float
    """By which the error of the best of another handedness or orientation is larger."""
    decided: bool
    """Whether the frames tell their geometry at all."""
    wrong: bool
    """The scan as it is fits clearly worse than with this map."""
    other_side: bool = False
    """The probe is a guess, and fits on the other side of its focus."""
    told_by: str = ""
    """In words, where it was not the error of fits that told it: ``told by ...``."""
    probe: Complex[Array, "M N N"] | None = None
    """A guess of the probe that fits better, where one was found besides."""

    @property
    def sentence(self) -> str:
        """What becomes of the scan."""
        return described(self.trial)


def as_matrix(values: Array) -> Matrix:
    (a, b), (c, d) = np.asarray(values, float).tolist()
    return ((a, b), (c, d))


def rotation(degrees: float) -> Float[Array, "2 2"]:
    """Turns (y, x): ``y' = y cos a - x sin a``, ``x' = y sin a + x cos a``."""
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])


def described(trial: Trial) -> str:
    """The map of a trial in words: the nearest flip, then rotation and scale."""
    matrix, scale = np.array(trial.map), _scale(trial)
    overlap = {name: float((matrix * np.array(flip)).sum()) for name, flip in FLIPS.items()}
    # The positions as they are, turned by up to 45 degrees, are not called exchanged.
    name = max(overlap, key=lambda name: overlap[name])
    turn = matrix @ np.linalg.inv(np.array(FLIPS[name])) / scale
    angle = float(np.rad2deg(np.arctan2(turn[1, 0], turn[0, 0])))
    words = [] if name == "as they are" else [f"positions {name}"]
    words += [f"positions turned by {angle:.1f} degrees"] if abs(angle) >= 0.3 else []
    words += [f"positions scaled by {scale:.3f}"] if abs(scale - 1) >= 0.003 else []
    words += [f"frames {NAMES[trial.code]}"] if trial.code else []
    return " and ".join(words) or "as they are"


# --------------------------------------------------------------------------------------------------------------- curl


def centres_of_mass(scan: Scan) -> Float[Array, "P 2"]:
    """(y, x) of the mean position of the counts in each frame, from pixel ``N // 2``."""
    k = np.arange(scan.N, dtype=float) - scan.N // 2
    used = scan.mask.astype(float)
    weights = np.stack([used, used * k[:, None], used * k], axis=-1).reshape(-1, 3)
    totals = np.concatenate([chunk.reshape(len(chunk), -1).astype(float) @ weights for chunk in chunks(scan.counts)])
    return totals[:, 1:] / np.maximum(totals[:, :1], 1e-30)


def curl_estimate(
    scan: Scan, neighbours: int = 9, blocks: int = 12, sigmas: float = 3.0, most_frames: int = 4096
) -> Curl | None:
    """The geometry under which the centres of mass have the least curl; None on a line of positions.

    With ``v = grad' phi`` in the frames' axes and positions ``p' = A p`` there, ``J_ij = dv_i / dp_j = (H A)_ij``, H
    the symmetric second derivatives of phi. So ``J B``, ``B = A^-1``, is symmetric everywhere: ``J_11 B_12 + J_12 B_22
    - J_21 B_11 - J_22 B_21 = 0``, linear in B. Of each kind, ``B = R(-a)`` or ``B = T R(-a)`` with T the exchange of y
    and x, the angle a of least squares is the eigenvector of a 2 x 2 matrix. Blocks of frames left out one by one tell
    the errors (jackknife).
    """
    from scipy.spatial import cKDTree

    from ptycho.physics.grid import nearest_the_middle

    if len(scan) > most_frames:
        scan = scan.subset(nearest_the_middle(scan.positions, most_frames))
    p, v = scan.positions, centres_of_mass(scan)
    if len(p) < neighbours:
        return None
    _, near = cKDTree(p).query(p, k=neighbours)
    x, y = (values[near] - values[near].mean(axis=1, keepdims=True) for values in (p, v))
    gram = np.einsum("pki,pkj->pij", x, x)
    extents = np.linalg.eigvalsh(gram)
    flat = extents[:, 0] > 0.05 * extents[:, 1]  # neighbours on a line tell no derivative across it
    if flat.sum() < 4 * blocks:
        return None
    J = np.einsum("pki,pkj->pij", y, x)[flat] @ np.linalg.inv(gram[flat])
    rows = np.stack([-J[:, 1, 0], J[:, 0, 0], -J[:, 1, 1], J[:, 0, 1]], axis=1)
    norms = np.linalg.norm(rows, axis=1)
    rows *= np.minimum(1, 3 * np.median(norms) / np.maximum(norms, 1e-30))[:, None]  # outliers count less
    parts = np.stack([part.T @ part for part in np.array_split(rows, blocks)])
    kinds = {False: np.array([[1, 0, 0, 1], [0, 1, -1, 0.0]]), True: np.array([[0, 1, 1, 0], [-1, 0, 0, 1.0]])}
    values, angles = {}, {}
    for mirrored, basis in kinds.items():
        sums = [parts.sum(axis=0), *(parts.sum(axis=0) - part for part in parts)]
        solved = [np.linalg.eigh(basis @ total @ basis.T / np.trace(total)) for total in sums]
        values[mirrored] = np.array([w[0] for w, _ in solved])
        angles[mirrored] = np.rad2deg([np.arctan2(u[1, 0], u[0, 0]) for _, u in solved])
    spread = lambda deviations: float(np.sqrt((blocks - 1) / blocks * (deviations**2).sum()))
    difference = values[True] - values[False]
    mirrored = bool(difference[0] < 0)
    off = (angles[mirrored] - angles[mirrored][0] + 90) % 180 - 90
    decided = abs(difference[0]) > sigmas * spread(difference[1:] - difference[0])
    angle = float((angles[mirrored][0] + 90) % 180 - 90)
    return Curl(mirrored, angle, spread(off[1:]), bool(decided))


# --------------------------------------------------------------------------------------------------------------- fits


def find_geometry(
    scan: Scan,
    *,
    frames: int = 60,
    side: int = 64,
    epochs: int = 2,
    defoci_rad: Sequence[float] = tuple(np.arange(-9.0, 9.1, 1.5)),
    margin: float = 0.1,
    guess_margin: float = 0.03,
    turn_margin: float = 0.012,
    undecided_below: float = 0.02,
    equal_within: float = 1e-3,
    guess_error_deg: float = 2.5,
    sound_within_deg: float = 8.0,
    scale_frames: int = 100,
    least_scale: float = 0.03,
    fine_frames: int = 400,
) -> Geometry | None:
    """The map of positions, or turn of frames, that lets a few frames from the middle fit each other best.

    None in the near field, of too few frames, or of a line of positions. Any other fault would decide the search:
    repair it before. A scan that is sound takes a second, one that is not some more.

    Args:
        frames: fitted for ``epochs`` with ``side`` pixels around the zero frequency.
        defoci_rad: tried where the probe is a guess.
        margin: part of the error by which another orientation has to be better; ``guess_margin`` where the probe is a
            guess, which fits worse in every geometry, and the curl agrees.
        turn_margin: the same for a small turn or scale, by a pixel; it grows with the square of the displacement.
        equal_within: part of the error within which turned frames and mapped positions are the same.
        sound_within_deg: of the angle that the curl tells, flips are not tried.
        guess_error_deg: turns below are left alone where the probe is a guess; the fit of an affine map finds them.
        scale_frames: of fewer the scale is not looked for.
        least_scale: part by which the scale has to be off: short fits tell it no better (0.975 of a sound scan), and
            the fit of an affine map finds what is less.
        fine_frames: tell the angle at the end.
        undecided_below: where no other orientation is worse by this part, and the curl does not tell, fits in all parts
            of the scan are asked (`told_by_all_parts`), and none is chosen where these do not tell either.
    """
    curl = None if scan.near_field is not None or len(scan) < 16 else curl_estimate(scan)
    if curl is None:
        return None
    small, wider = (middle_of(scan, count, side) for count in (frames, 2 * frames))
    # Where the curl tells that the scan is as it should be, but for a sign, only that is tried.
    sound = curl.decided and _agrees(Trial(), curl, sound_within_deg)
    guess = Guess() if scan.probe_known else best_guess(small, curl, defoci_rad, sound)
    if not scan.probe_known:
        small, wider = (each.with_probe(guess.of(each.probe), known=False) for each in (small, wider))
    errors = lambda trials, count=epochs: fit_errors(small, trials, count, fits_probe=False)
    longer = lambda trials, count, every=None: fit_errors(wider, trials, count, held_out_every=every)
    named = (IDENTITY, FLIPS["turned by 180 degrees"]) if sound else FLIPS.values()
    trials = [Trial(map=each) for each in named]
    trials += [Trial(map=as_matrix(sign * np.array(curl.map))) for sign in (1.0, -1.0)]
    if scan.probe_known:  # a probe of its own axes; a guess turns with the frames
        trials += [Trial(code=code) for code in ((3,) if sound else range(1, 8))]
    first = errors(trials)
    best = int(np.argmin(first))
    # Turned frames and mapped positions may be the same but for the probe.
    another = [error for trial, error in zip(trials, first) if _is_another(trial, trials[best])]
    chosen = trials[best]
    alike = [chosen, *(trial for trial in trials if trial.code != chosen.code and not _is_another(trial, chosen))]
    if len(alike) > 1:
        # Turned frames or mapped positions, the same but for the probe, which a longer fit tells.
        compared = longer(alike, 3 * epochs)
        equal = [trial for trial, error in zip(alike, compared) if error <= (1 + equal_within) * compared.min()]
        chosen = max(equal, key=lambda trial: trial.code)  # of equal ones frames are turned: positions keep their axes
    # A guessed probe is as wide as its focus was found: it does not tell the scale. Nor does a small field.
    polished = _told(_polished(errors, chosen, scan.probe_known and len(scan) >= scale_frames), chosen, least_scale)
    # Short fits like positions that lie closer together, whose frames tell more of each other: frames held out of
    # longer ones decide.
    ends = list(dict.fromkeys([Trial(), chosen, polished]))
    final = longer(ends, 3 * epochs, 5) if len(ends) > 1 else np.ones(1)
    polished = ends[int(np.argmin(final))]
    gain = float(final[0] / max(final.min(), 1e-30) - 1)
    apart = float(min(another) / max(first[best], 1e-30) - 1)
    agrees = curl.decided and _agrees(polished, curl)
    if not scan.probe_known or _is_another(Trial(), polished):
        needed = guess_margin if agrees and not scan.probe_known else margin
    else:
        needed = min(turn_margin * max(1.0, _squared_displacement_px(wider, polished)), 2 * margin)
    # The focus of a guess is not quite right, which turns the best angle by a degree or two.
    differs = _differ(Trial(), polished) if scan.probe_known else _is_another(Trial(), polished, guess_error_deg)
    decided = apart > undecided_below or agrees
    if not decided and (told := told_by_all_parts(scan, side, epochs)) is not None:
        return told
    wrong = decided and differs and gain > needed
    geometry = Geometry(polished, gain, apart, decided, wrong, guess.conjugate)
    return checked_in_all_fields(scan, geometry, guess, differs, frames, side, epochs, fine_frames)


def checked_in_all_fields(
    scan: Scan, geometry: Geometry, guess: Guess, differs: bool, frames: int, side: int, epochs: int, fine_frames: int
) -> Geometry:
    """What was found in the middle of a scan as far as four fields confirm it, see `find_geometry`."""
    trial = geometry.trial
    # Few photons make all errors alike: of another handedness, where the gain is small, all fields decide.
    mirrored = geometry.gain > 0 and bool(np.linalg.det(_relative(trial)) < 0)
    if not (geometry.wrong or (geometry.decided and differs and mirrored)):
        return geometry
    trial = confirmed(fields_of(scan, 2 * frames, side, guess), trial, 3 * epochs)
    wrong = trial != Trial()
    decided = wrong or not mirrored
    if not decided and (told := told_by_all_parts(scan, side, epochs)) is not None:
        return told
    # Positions that were exchanged or mirrored, and not turned, stay so: noise would turn them.
    if wrong and not trial.code and trial.map not in FLIPS.values():
        refocused = scan.with_probe(guess.of(scan.probe), known=scan.probe_known)
        trial = _turned_finely(middle_of(refocused, fine_frames, side), trial)
    return geometry._replace(trial=trial, decided=decided, wrong=wrong)


def fields_of(scan: Scan, frames: int, side: int, guess: Guess, across: int = 2) -> list[Scan]:
    """So many frames each from the middles of ``across`` by ``across`` parts of a scan, the probe as it was found."""
    fields = []
    for index in nearest_to_parts(scan.positions, across, frames):
        field = middle_of(scan.subset(index), frames, side)
        fields.append(field if scan.probe_known else field.with_probe(guess.of(field.probe), known=False))
    return fields


def nearest_to_parts(positions: Float[Array, "P 2"], across: int, frames: int) -> list[Int[Array, " F"]]:
    """Of the frames nearest to the middle of each of ``across`` by ``across`` parts of a scan the indices."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    fractions = (np.arange(across) + 0.5) / across
    centres = low + (high - low) * np.stack(np.meshgrid(fractions, fractions, indexing="ij"), axis=-1).reshape(-1, 2)
    squares = ((positions - centre) ** 2 for centre in centres)
    return [np.sort(np.argsort(each.sum(axis=1))[:frames]) for each in squares]


def confirmed(fields: Sequence[Scan], trial: Trial, epochs: int) -> Trial:
    """What of a trial each field of a scan confirms: with its scale and sign, or without, or nothing, `Trial()`.

    Short fits from vacuum end at errors that scatter by a tenth and more, as each leaves other regions unsolved, most
    of all under a probe in its focus; and under a real probe positions of the other sign fit as well. The scatter is
    another in each field, and frames held out of a fit to it tell: what is right is better in all of them.
    """
    unscaled = _mapped(trial, np.eye(2) / _scale(trial))
    opposite = lambda each: each._replace(code=each.code ^ 3) if each.code else _mapped(each, -np.eye(2))
    rivals = [each for start in (Trial(), unscaled, trial) for each in (start, opposite(start))]
    errors = np.stack(
        [fit_errors(field, rivals, epochs, held_out_every=5, seed=seed) for seed, field in enumerate(fields)]
    )
    either_sign = errors.reshape(len(fields), 3, 2).min(axis=-1)
    better = lambda one, other: bool((one < other).all())
    # One of two that are alike fits better in all fields once in 16 times, by three standard errors once in 35, by six
    # once in 200. Positions of other frames fit badly in every geometry, in one or another a little less so.
    sigmas = lambda one, other: mean_over_error(np.log(other / one))
    pair = 2 if better(either_sign[:, 2], either_sign[:, 1]) else 1
    chosen = 2 * pair
    # Of two signs that fit alike the one that turns the scan less, or exchanges y for x and does not turn it.
    if _relative(trial).sum() < 0 and sigmas(errors[:, chosen], errors[:, chosen + 1]) < 6:
        chosen += 1
    if not _differ(Trial(), rivals[chosen]):
        return Trial()
    only_the_sign = not _is_another(opposite(Trial()), rivals[chosen], 1.0)
    ends = (errors[:, chosen], errors[:, 0]) if only_the_sign else (either_sign[:, pair], either_sign[:, 0])
    return rivals[chosen] if better(*ends) and sigmas(*ends) > 3 else Trial()


def told_by_all_parts(
    scan: Scan,
    side: int,
    epochs: int,
    *,
    across: int = 3,
    frames: int = 120,
    least_frames: int = 30,
    step_deg: float = 20.0,
    sigmas: float = 4.0,
    least_excess: float = 0.1,
) -> Geometry | None:
    """What fits of few photons tell where they are asked in several parts of the scan; None where they do not tell.

    Shot noise is most of each error then, and the same under each geometry. What is left differs little, but alike in
    all parts: a paired comparison tells by how many standard errors. The probe is taken as it is, and a wrong one makes
    alike differences, too: small beside what it leaves of the error above the shot noise, so these decide nothing.

    Args:
        scan: its positions as they are.
        side, epochs: of the fits.
        across: of the scan's parts, along either axis.
        frames: of each part, nearest to its middle; parts of fewer than ``least_frames`` are not asked.
        step_deg: between the angles that are tried.
        sigmas: standard errors by which every other orientation has to be worse.
        least_excess: part of the error above the shot noise by which it has to be.
    """
    frames = min(frames, len(scan) // across**2)
    if frames < least_frames:
        return None
    fields = fields_of(scan, frames, side, Guess(), across)
    error_table = lambda trials: np.stack([fit_errors(field, trials, epochs, fits_probe=False) for field in fields])
    angles = step_deg * np.arange(-2, 3)
    kinds = [IDENTITY, *(FLIPS[name] for name in ("turned by 180 degrees", "exchanged, y for x"))]
    kinds.append(FLIPS["exchanged and turned by 180 degrees"])
    trials = [Trial(map=as_matrix(rotation(angle) @ np.array(kind))) for kind in kinds for angle in angles]
    errors = error_table(trials)
    best = int(np.argmin(errors.mean(axis=0)))
    # Turned to where a parabola through the errors of neighbouring angles is lowest: half a step may be missing first.
    nearby = step_deg / 4 * np.arange(-3, 4)
    around = error_table([_mapped(trials[best], rotation(angle)) for angle in nearby]).mean(axis=0)
    curvature, slope, _ = np.polyfit(nearby, around, 2)
    turn = -slope / (2 * curvature) if curvature > 0 else nearby[np.argmin(around)]
    chosen = _mapped(trials[best], rotation(float(np.clip(turn, nearby[0], nearby[-1]))))
    ends = error_table([chosen, Trial()])
    worse = lambda others: mean_over_error(others - ends[:, 0])
    rivals = [column for trial, column in zip(trials, errors.T, strict=True) if _is_another(trial, chosen, 60.0)]
    pattern = np.mean([field.mean_pattern[field.mask].sum() for field in fields])
    noise = np.mean([scatter_of_mean(field) for field in fields]) / pattern
    left = max(float(ends[:, 0].mean() - noise), 1e-30)
    nearest_rival = min(rivals, key=lambda column: column.mean())
    apart = float(nearest_rival.mean() - ends[:, 0].mean())
    if min(map(worse, rivals)) < sigmas or apart < least_excess * left:
        return None
    gain = float(ends[:, 1].mean() / ends[:, 0].mean() - 1)
    wrong = _differ(Trial(), chosen, 2.5) and worse(ends[:, 1]) > sigmas
    return Geometry(chosen, gain, apart / float(ends[:, 0].mean()), True, bool(wrong))


def best_guess(
    middle: Scan, curl: Curl, defoci_rad: Sequence[float], sound: bool, *, sign_margin: float = 0.1
) -> Guess:
    """With which a few frames fit best, as they are or mapped as the curl tells; of defoci in rad at the probe's edge.

    The curl leaves the sign open, and positions turned by 180 degrees fit as the conjugate of the probe's spectrum
    does, which may be too far from the guess: of the sign of positions and that of the defocus one can be wrong, and no
    frame tells which. So the opposite sign has a best defocus of its own, taken where it fits better by
    ``sign_margin``. Where the positions are ``sound`` but for that sign they are believed, and the probe becomes that
    conjugate; where they are mirrored or turned, the probe is believed.
    """
    likely = [IDENTITY, *([curl.map] if curl.decided else [])]
    opposite = as_matrix(-np.array(IDENTITY if sound else curl.map))
    maps = [*likely, *([opposite] if curl.decided else [])]
    tried = [Trial(map=each, defocus_rad=defocus) for each in maps for defocus in defoci_rad]
    errors = fit_errors(middle, tried, 1, fits_probe=False)
    errors[len(likely) * len(defoci_rad) :] *= 1 + sign_margin
    best = tried[int(np.argmin(errors))]
    # Half a coarse step of defocus turns the best angle by some degrees.
    finer = best.defocus_rad + float(np.diff(defoci_rad)[0]) / 3 * np.arange(-2, 3)
    defocus = _vertex(finer, fit_errors(middle, [best._replace(defocus_rad=at) for at in finer], 2, fits_probe=False))
    return Guess(defocus, sound and best.map == opposite)


def _squared_displacement_px(scan: Scan, trial: Trial) -> float:
    """Mean square of how far the map of a trial moves the frames.

    The error rises with it until it saturates: far moved for little is no valley.
    """
    moved = (scan.positions - scan.positions.mean(axis=0)) @ (np.array(trial.map) - np.eye(2)).T
    return float((moved**2).sum(axis=1).mean())


def _told(polished: Trial, chosen: Trial, least_scale: float) -> Trial:
    """A polished trial as far as short fits tell: without a scale that is near 1, or the one that it began with."""
    scale = _scale(polished)
    polished = polished if abs(scale - 1) >= least_scale else _mapped(polished, np.eye(2) / scale)
    return polished if _differ(chosen, polished) else chosen


def _scale(trial: Trial) -> float:
    return float(np.sqrt(abs(np.linalg.det(np.array(trial.map)))))


def _relative(trial: Trial) -> Float[Array, "2 2"]:
    """The positions in the frames' own axes, without scale: frames turned by D are positions mapped by ``D^-1``."""
    exchange = np.array(FLIPS["exchanged, y for x"] if trial.code & 4 else IDENTITY)
    flip = np.diag([-1.0 if trial.code & 2 else 1.0, -1.0 if trial.code & 1 else 1.0])  # transposed first
    matrix = np.linalg.inv(flip @ exchange) @ np.array(trial.map)
    return matrix / np.sqrt(abs(np.linalg.det(matrix)))


def _agrees(trial: Trial, curl: Curl, degrees: float = 20.0) -> bool:
    """Whether a trial has the handedness that the curl tells, and its angle modulo 180 degrees."""
    turn = _relative(trial) @ np.linalg.inv(np.array(curl.map))
    angle = np.rad2deg(np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1]))
    return bool(np.linalg.det(turn) > 0 and abs((angle + 90) % 180 - 90) < degrees)


def _is_another(one: Trial, other: Trial, degrees: float = 25.0) -> bool:
    """Whether two trials are orientations that no small turn or scale connects."""
    a, b = _relative(one), _relative(other)
    # |A - B|^2 = 4 (1 - cos a) for a turn by a, 4 between a rotation and a mirror.
    return bool(((a - b) ** 2).sum() > 4 * (1 - np.cos(np.deg2rad(degrees))))


def _differ(one: Trial, other: Trial, degrees: float = 1.0, scale: float = 0.01) -> bool:
    """Whether two trials lie apart by more than a search tells."""
    a, b = (np.array(trial.map) for trial in (one, other))
    return one.code != other.code or bool(np.abs(a - b).max() > max(np.deg2rad(degrees), scale))


def _polished(errors: Callable[[Sequence[Trial]], Array], trial: Trial, scales: bool) -> Trial:
    """A trial turned, and with ``scales`` scaled, to where the error is lowest, by ever smaller steps."""
    if trial.code:
        return trial
    turned_by = lambda start, degrees: _mapped(start, rotation(degrees))
    scaled_by = lambda start, logarithm: _mapped(start, np.exp(logarithm) * np.eye(2))
    changes = [(turned_by, (5.0, 3.0, 1.0))] + ([(scaled_by, (0.09, 0.04, 0.015))] if scales else [])
    sides = [change(trial, sign * steps[1]) for change, steps in changes for sign in (-1, 1)]
    around = errors([trial, *sides])
    near = bool((around[1:] > around[0]).all())  # then only the finer steps are needed
    if near and trial == Trial():
        pairs = [around[1 + 2 * k : 3 + 2 * k] for k in range(len(changes))]
        off = [
            _vertex(steps[1] * np.array([-1.0, 0, 1]), np.array([a, around[0], b])) / steps[2]
            for (_, steps), (a, b) in zip(changes, pairs)
        ]
        if max(map(abs, off)) < 1:
            return trial
    for stage in range(1 if near else 0, 3):
        reach = 1 if stage else 3
        for change, steps in changes:
            x = steps[stage] * np.arange(-reach, reach + 1)
            trial = change(trial, _vertex(x, errors([change(trial, value) for value in x])))
    return trial


def _turned_finely(scan: Scan, trial: Trial, step_deg: float = 0.7, epochs: int = 3) -> Trial:
    """A trial turned to where more frames fit best: the further they reach, the finer they tell."""
    degrees = step_deg * np.arange(-2, 3)
    return _mapped(
        trial, rotation(_vertex(degrees, fit_errors(scan, [_mapped(trial, rotation(d)) for d in degrees], epochs)))
    )


def _mapped(trial: Trial, matrix: Array) -> Trial:
    return trial._replace(map=as_matrix(matrix @ np.array(trial.map)))


def _vertex(x: Float[Array, " K"], values: Float[Array, " K"]) -> float:
    """Where the parabola through the lowest of evenly spaced values and its neighbours is lowest."""
    k = int(np.argmin(values))
    if k in (0, len(x) - 1):
        return float(x[k])
    before, here, after = values[k - 1 : k + 2]
    curvature = before - 2 * here + after
    return float(x[k] + (0.5 * (before - after) / curvature if curvature > 0 else 0.0) * (x[1] - x[0]))


def with_geometry(scan: Scan, geometry: Geometry) -> Scan:
    """The scan with a map applied, about the middle of its positions; a true object, which fits them no longer, is left
    out."""
    trial = geometry.trial
    middle = scan.positions.mean(axis=0)
    positions = middle + (scan.positions - middle) @ np.array(trial.map).T
    counts: Array = mapped(scan.counts, turned, trial.code) if trial.code else scan.counts
    mask: Bool[Array, "N N"] = turned(scan.mask, trial.code)
    return replace(scan, counts=counts, mask=mask, positions=positions, object=None)
