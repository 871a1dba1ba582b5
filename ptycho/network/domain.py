"""What a network was trained for, and how far a scan is from it."""

from collections.abc import Sequence

from ptycho.data.scan import Scan
from ptycho.network.build import PtychoNetwork


def conditions(scans: Sequence[Scan]) -> dict[str, tuple[float, float]]:
    """What a network trained on these scans knows: least and most of each quantity that matters to it."""
    values = {
        "N": [float(scan.N) for scan in scans],
        "counts_per_frame": [scan.mean_counts for scan in scans],
        "probe_diameter_px": [float(scan.probe_diameter_px) for scan in scans],
        "step_px": [scan.step_px for scan in scans],
    }
    return {name: (min(of_scans), max(of_scans)) for name, of_scans in values.items()}


def widen(network: PtychoNetwork, scans: Sequence[Scan]) -> None:
    """Note in a network that it has learned from these scans."""
    for name, (least, most) in conditions(scans).items():
        low, high = network.trained_for.get(name, (least, most))
        network.trained_for[name] = [min(low, least), max(high, most)]


def far_from_training(network: PtychoNetwork, scan: Scan, far: float = 3.0) -> list[str]:
    """Sentences about what in a scan is far from all that a network was trained for; empty if nothing is.

    ``far`` is the factor beyond the trained range from which on it says so.
    """
    sentences = []
    for name, (value, _) in conditions([scan]).items():
        low, high = network.trained_for.get(name, (value, value))
        if not low / far <= value <= high * far:
            label = name.replace("_px", " in pixels").replace("_", " ")
            sentences.append(
                f"{label} {value:.4g} is far from what the network was trained for ({low:.4g} to {high:.4g}): "
                "train it on this scan (ptycho train --from)"
            )
    return sentences
