"""The table of licences in docs/trust.md: what ``pip install ptycho`` brings, and what each extra adds to it.

python docs/licences.py     # where ptycho is installed; packages that are not are named at the end
"""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

EXTRAS = ("", "distributed", "jax", "torch", "ptychi", "tensorboard", "microscopy")
COPYLEFT = re.compile(r"\bA?L?GPL|GNU|MPL|Mozilla|EUPL|CeCILL")


def closure(name: str, extras: frozenset[str], met: dict[str, Distribution | None]) -> None:
    """Everything that a package needs on this machine."""
    if name in met:
        return
    try:
        met[name] = distribution(name)
    except PackageNotFoundError:
        met[name] = None
        return
    for text in met[name].requires or ():  # type: ignore[union-attr]
        needed = Requirement(text)
        if needed.marker is None or any(needed.marker.evaluate(dict(extra=extra)) for extra in extras or {""}):
            closure(canonical(needed.name), frozenset(needed.extras), met)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(package: Distribution) -> str:
    """In a few words; of a text that is given whole, the first line."""
    about = package.metadata
    classifiers = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or () if line.startswith("License")]
    text = about.get("License-Expression") or next(iter(classifiers), None) or about.get("License") or "not stated"
    return text.strip().splitlines()[0].removesuffix(" License")[:60]


def main() -> None:
    """Print the table."""
    core: dict[str, Distribution | None] = {}
    closure("ptycho", frozenset(), core)
    print("| brought by | package | licence |\n|---|---|---|")
    missing = []
    for extra in EXTRAS:
        met: dict[str, Distribution | None] = {} if extra else dict(core)
        if extra:
            closure("ptycho", frozenset({extra}), met)
        for name in sorted(met):
            package = met[name]
            if name == "ptycho" or (extra and name in core):
                continue
            if package is None:
                missing.append(f"{name} ({extra})")
                continue
            words = licence(package)
            words = f"**{words}**" if COPYLEFT.search(words) else words
            print(f"| {extra or 'ptycho'} | {name} {package.version} | {words} |")
    if missing:
        print(f"\nNot installed here: {', '.join(missing)}.")


if __name__ == "__main__":
    main()
