"""Numbers of the house: how large the package is, how long its functions are, and which words it uses.

    python -m benchmarks.house [FOLDER ...]

One line a folder (default: ``ptycho``). With ``--names`` the generic names, each with its files and lines.
"""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

WORDS = """
found own part whole line light much more said told way ways here rest lit seen asked wanted pull bend share missing
roots judging judged withheld together descent anchor drift mended thinned twin alone rehearse things thing what who
there places place moved_back corner variation levelled view views lines parts
"""
GENERIC = frozenset(WORDS.split())
"""Words that carry no meaning as a name, and those that the field has others for."""

LONG = 60
"""Lines of a function, docstring left out, from which on it is long."""


class Numbers(NamedTuple):
    """What is counted in a folder."""

    modules: int
    lines: int
    long_functions: int
    bound_names: int
    generic_names: int
    constants: int
    anys: int
    comments_per_100: float

    @property
    def generic_percent(self) -> float:
        """Generic words among the bound names, in per cent."""
        return 100 * self.generic_names / max(self.bound_names, 1)


def modules(folder: Path) -> list[Path]:
    """The Python files of a folder, or the file itself."""
    return [folder] if folder.is_file() else sorted(folder.rglob("*.py"))


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that a module binds, with their lines: variables, arguments, attributes set, functions and classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno


def long_functions(tree: ast.AST, limit: int = LONG) -> Iterator[tuple[str, int]]:
    """Functions of more than ``limit`` lines without their docstring, with their lengths."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            end = node.end_lineno or node.lineno
            length = end - node.lineno + 1
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                length -= (first.end_lineno or first.lineno) - first.lineno + 1
            if length > limit:
                yield node.name, length


def numeric_constants(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Module-level names of numbers or of tuples of numbers."""
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        value = getattr(node, "value", None)
        if value is None or not targets:
            continue
        leaves = [leaf for leaf in ast.walk(value) if isinstance(leaf, ast.Constant)]
        simple = not any(isinstance(leaf, ast.Call | ast.Lambda | ast.Attribute | ast.Name) for leaf in ast.walk(value))
        if (
            simple
            and leaves
            and any(isinstance(leaf.value, int | float) and not isinstance(leaf.value, bool) for leaf in leaves)
        ):
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, node.lineno
                elif isinstance(target, ast.Tuple):
                    yield from ((leaf.id, node.lineno) for leaf in target.elts if isinstance(leaf, ast.Name))


def comment_lines(text: str) -> int:
    """Comments, those behind code too."""
    return sum(token.type == tokenize.COMMENT for token in tokenize.generate_tokens(io.StringIO(text).readline))


def code_lines(text: str, tree: ast.Module) -> int:
    """Lines that are neither empty, nor a comment, nor in a docstring."""
    docs: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docs.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in docs
        for number, line in enumerate(text.splitlines(), 1)
    )


def numbers(folder: Path) -> Numbers:
    """All of them for a folder."""
    files = modules(folder)
    total = dict.fromkeys(("lines", "long", "bound", "generic", "constants", "anys", "comments", "code"), 0)
    for file in files:
        text = file.read_text()
        tree = ast.parse(text)
        names = [name for name, _ in bound_names(tree)]
        total["lines"] += len(text.splitlines())
        total["long"] += len(list(long_functions(tree)))
        total["bound"] += len(names)
        total["generic"] += sum(name.strip("_") in GENERIC for name in names)
        total["constants"] += len(list(numeric_constants(tree)))
        total["anys"] += sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree))
        total["comments"] += comment_lines(text)
        total["code"] += code_lines(text, tree)
    return Numbers(
        len(files),
        total["lines"],
        total["long"],
        total["bound"],
        total["generic"],
        total["constants"],
        total["anys"],
        100 * total["comments"] / max(total["code"], 1),
    )


def main(arguments: list[str]) -> None:
    """Print the numbers, or with ``--names`` where the generic names are."""
    folders = [Path(argument) for argument in arguments if not argument.startswith("--")] or [Path("ptycho")]
    for folder in folders:
        if "--names" in arguments:
            for file in modules(folder):
                tree = ast.parse(file.read_text())
                for name, number in bound_names(tree):
                    if name.strip("_") in GENERIC:
                        print(f"{file}:{number}: {name}")
                for name, length in long_functions(tree):
                    print(f"{file}: {name} has {length} lines")
                for name, number in numeric_constants(tree):
                    print(f"{file}:{number}: constant {name}")
        counted = numbers(folder)
        print(f"{folder}: {counted.modules} modules, {counted.lines} lines", end=", ")
        print(f"{counted.long_functions} functions over {LONG} lines, {counted.constants} numeric constants", end=", ")
        print(f"generic words {counted.generic_percent:.2f} % of {counted.bound_names} bound names", end=", ")
        print(f"Any {counted.anys} times, {counted.comments_per_100:.1f} comments per 100 code lines")


if __name__ == "__main__":
    main(sys.argv[1:])
