"""A package of hatlab imports only from those before it, and no modules import each other in a circle.

Every import counts: at the top, inside a function, for type checkers only, and by a name given to `import_module`.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from hatlab.support.paths import home

# config is a module, the others are packages; each knows those before it
ORDER = ["_version", "config", "support", "method", "data", "training", "analysis", "experiments", "batches", "cli"]
ENTRANCES = {"hatlab", "hatlab.__main__"}  # nothing imports them, and they may import anything


def module_of(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.AST, modules: set[str]) -> Iterator[str]:
    """Yield the modules of hatlab that a module imports."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            # "from hatlab.support import paths" imports a module, "from hatlab.support.paths import home" a name of one
            names = [
                full if (full := f"{node.module}.{alias.name}") in modules else str(node.module) for alias in node.names
            ]
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        yield from (name for name in names if name.partition(".")[0] == "hatlab")


def imports_of(root: Path) -> dict[str, set[str]]:
    """Return module -> the modules it imports, for all below `root`/hatlab."""
    trees = {
        module_of(path, root): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted((root / "hatlab").rglob("*.py"))
    }
    return {name: set(imported(tree, set(trees))) for name, tree in trees.items()}


def rank(module: str) -> int:
    package = module.split(".")[1]
    assert package in ORDER, f"{module} is in no package that has a place in the order"
    return ORDER.index(package)


def against_the_order(imports: dict[str, set[str]]) -> list[str]:
    """Return "a imports b" for each import that runs back."""
    return [
        f"{module} imports {name}"
        for module, names in imports.items()
        for name in sorted(names)
        if module not in ENTRANCES and (name in ENTRANCES or rank(name) > rank(module))
    ]


def test_no_package_imports_from_a_later_one() -> None:
    imports = imports_of(home())
    assert sum(map(len, imports.values())) > 100
    assert against_the_order(imports) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter(imports_of(home())).prepare()


@pytest.mark.parametrize(
    "code",
    [
        "from hatlab.training import runs",
        "from hatlab.training.runs import run",
        "import hatlab.training.runs",
        "def late():\n    from hatlab.training.runs import run",
        "if TYPE_CHECKING:\n    from hatlab.training.runs import Run",
        "from importlib import import_module\nimport_module('hatlab.training.runs')",
        "__import__('hatlab.training.runs')",
        "from hatlab import run",
    ],
)
def test_an_import_that_runs_back_is_found(code: str, tmp_path: Path) -> None:
    write(tmp_path, {"training/runs.py": "", "method/gate.py": code})
    (found,) = against_the_order(imports_of(tmp_path))
    assert found.startswith("hatlab.method.gate imports hatlab")


def test_a_circle_is_found(tmp_path: Path) -> None:
    write(
        tmp_path, {"data/a.py": "from hatlab.data.b import x", "data/b.py": "def f():\n    from hatlab.data import a"}
    )
    with pytest.raises(CycleError):
        TopologicalSorter(imports_of(tmp_path)).prepare()


def test_a_module_outside_the_packages_is_found(tmp_path: Path) -> None:
    write(tmp_path, {"loose.py": "from hatlab.config import RunConfig", "config.py": ""})
    with pytest.raises(AssertionError, match=r"hatlab\.loose is in no package"):
        against_the_order(imports_of(tmp_path))


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in {"__init__.py": "", **files}.items():
        path = root / "hatlab" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text, encoding="utf-8")


def lines_of(folder: Path) -> dict[str, int]:
    paths = sorted(folder.rglob("*.py"))
    return {path.relative_to(folder).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}


def test_a_module_has_at_most_350_lines() -> None:
    assert {name: n for name, n in lines_of(home() / "hatlab").items() if n > 350} == {}


def test_the_method_has_at_most_900_lines() -> None:
    assert sum(lines_of(home() / "hatlab" / "method").values()) <= 900
