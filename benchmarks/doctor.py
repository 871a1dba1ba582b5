"""The confusion table of the doctor: what it says of scans with one planted fault each, and of sound ones.

    python -m benchmarks.doctor            # 241 scans, 13 of each row but 7 orientations: a minute

A row is a fault, a number how many of its scans a check warns of or fails. The check that is there for the fault is in
bold; others may rightly notice the same fault.
"""

from collections import Counter
from dataclasses import replace

import numpy as np

from ptycho.diagnostics.checks import examine
from ptycho.diagnostics.orientation import turned
from tests.formats.faults import FAULTS, healthy

SEEDS = 13


def main() -> None:
    rows: dict[str, tuple[int, str, Counter[str]]] = {}
    names: list[str] = []

    def look(fault: str, right: str, scan, orientation: bool) -> None:
        checks = examine(scan, orientation=orientation)
        names.extend(check.name for check in checks if check.name not in names)
        number, _, found = rows.get(fault, (0, right, Counter()))
        bad = {check.name for check in checks if check.verdict != "pass"}
        found.update(bad)
        found["caught"] += bool(bad & set(right.split("|"))) if right else not bad
        rows[fault] = (number + 1, right, found)

    for seed in range(SEEDS):
        look("none", "", healthy(seed), orientation=True)
        for fault, (right, plant) in FAULTS.items():
            look(fault, right, plant(healthy(seed), np.random.default_rng(seed)), orientation=False)
    for code in range(1, 8):
        scan = healthy(code)
        look(
            "turned frames", "orientation of frames", replace(scan, counts=turned(scan.counts, code)), orientation=True
        )

    print("| planted | scans | right | " + " | ".join(names) + " |\n" + "|---" * (3 + len(names)) + "|")
    for fault, (number, right, found) in rows.items():
        marked = [
            f"**{found[name]}**" if name in right.split("|") and found[name] else str(found[name] or "")
            for name in names
        ]
        print(f"| {fault} | {number} | {found['caught']} | " + " | ".join(marked) + " |")
    total, caught = sum(n for n, _, _ in rows.values()), sum(found["caught"] for _, _, found in rows.values())
    print(f"\n{caught} of {total} as they should be")


if __name__ == "__main__":
    main()
