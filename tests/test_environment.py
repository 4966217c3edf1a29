"""The files that say what to install agree with each other and with what the code imports."""

import ast
import re
import runpy
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from hatlab.batches.notebook import Notebook

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOT_LOCKED = {"mlflow", "trackio"}  # extras whose libraries hold others to older releases; the Makefile says which
LISTS = (PROJECT["dependencies"], *(lines for name, lines in EXTRAS.items() if name not in NOT_LOCKED))
DIRECT = [Requirement(line) for lines in LISTS for line in lines]
with pytest.MonkeyPatch.context() as patch:
    patch.delenv("VENV", raising=False)  # make hands it on
    SETUP = runpy.run_path(str(ROOT / "tools" / "setup_venv.py"))

LATE = {"dask", "distributed", "ipykernel", "ipython", "jupyter-client", "nbclient", "nbformat", "papermill"}
DISPENSABLE = ["ipywidgets"]  # without them the walkthrough shows pictures without sliders
OPTIONAL = {"apprise", "mlflow", "pynvml", "trackio"}  # modules of extras, and one that a GPU's owner has
PYTHONS = ["3.11", "3.12", "3.13"]
MACHINES = {
    "Linux": ("linux", "posix", "x86_64"),
    "Darwin": ("darwin", "posix", "arm64"),
    "Windows": ("win32", "nt", "AMD64"),
}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def lock() -> list[Requirement]:
    lines = (line.strip() for line in read("requirements.lock").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pins(environment: dict[str, str]) -> dict[str, str]:
    """Return name -> version of what the lock holds for one Python on one system."""
    found: dict[str, str] = {}
    for requirement in lock():
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"two pins of {name} apply at once"
            found[name] = str(requirement.specifier).removeprefix("==")
    return found


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", MACHINES)
def test_every_pin_lies_in_its_range_on_every_system(system: str, python: str) -> None:
    sys_platform, os_name, machine = MACHINES[system]
    environment = {
        **{key: str(value) for key, value in default_environment().items()},
        "python_version": python,
        "python_full_version": f"{python}.1",
        "platform_system": system,
        "sys_platform": sys_platform,
        "os_name": os_name,
        "platform_machine": machine,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    pinned = pins(environment)
    for requirement in DIRECT:
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is in pyproject.toml and has no pin: make lock"
        assert pinned[name] in requirement.specifier, f"{requirement} does not admit the pin {pinned[name]}"


def test_lock_was_made_from_these_dependencies() -> None:
    """A dependency taken out of pyproject.toml leaves the lock, too."""
    asked, name = set(), ""
    for line in read("requirements.lock").splitlines():
        if not line.startswith((" ", "#")):
            name = canonicalize_name(Requirement(line).name)
        elif "hatlab (pyproject.toml)" in line:
            asked.add(name)
    assert asked == {canonicalize_name(requirement.name) for requirement in DIRECT}


def test_lock_holds_pins_alone_and_no_address() -> None:
    assert all(re.fullmatch(r"==[^*,]+", str(requirement.specifier)) for requirement in lock())
    assert "://" not in read("requirements.lock")
    assert not re.search(r"^\s*-", read("requirements.lock"), re.MULTILINE)


def test_every_way_to_install_uses_the_lock() -> None:
    """conda, pip and uv get the same versions since each is given the same file of pins, and no second one."""
    environment = yaml.safe_load(read("environment.yml"))
    python, pip, section = environment["dependencies"]
    assert pip == "pip"
    assert Requirement(python.replace("=", "==") + ".*").specifier.contains("3.12.1")
    assert section == {"pip": ["--constraint requirements.lock", "--editable .[notebooks,dev,docs]"]}
    assert re.search(r"^LOCK \?= requirements\.lock$", read("Makefile"), re.MULTILINE)
    assert re.search(r"^\s*make test$", read(".ci/run"), re.MULTILINE)
    assert '"--editable", ".[notebooks,dev,docs]"' in read("tools/setup_venv.py")
    assert set(EXTRAS) == {"notebooks", "dev", "docs", "notify", "tensorboard", *NOT_LOCKED}


def test_supported_pythons_are_the_same_everywhere() -> None:
    supported = SpecifierSet(PROJECT["requires-python"])
    assert [minor for minor in range(30) if supported.contains(f"3.{minor}.0")] == [11, 12, 13]
    assert [f"{major}.{minor}" for major, minor in SETUP["PYTHONS"]] == PYTHONS
    assert yaml.safe_load(read("environment.yml"))["dependencies"][0].removeprefix("python=") in PYTHONS
    workflow = yaml.safe_load(read(".github/workflows/tests.yml"))
    matrix = workflow["jobs"]["make"]["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS and matrix["versions"] == ["locked"]
    assert {"os": matrix["os"][0], "python": PYTHONS[0], "versions": "lowest"} in matrix["include"]
    assert f"PYTHONS ?= {' '.join(f'python{python}' for python in PYTHONS)}\n" in read("Makefile")


def test_what_is_published_stands_alone() -> None:
    """No link into the repository, no tests without what they read, no address that is not known to be true."""
    assert not re.findall(r"\]\((?!https://)|<(?:img|a) ", read(PROJECT["readme"]["file"]))
    assert {"prune tests", "exclude README.md"} <= set(read("MANIFEST.in").splitlines())
    assert {f"Programming Language :: Python :: {python}" for python in PYTHONS} <= set(PROJECT["classifiers"])
    assert all(url.startswith("https://") for url in PROJECT.get("urls", {}).values())


def test_actions_are_pinned_by_commit() -> None:
    used = re.findall(r"uses: *(.*)", read(".github/workflows/tests.yml"))
    assert used and [line for line in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


def test_pre_commit_runs_the_versions_of_the_lock() -> None:
    pinned = pins({key: str(value) for key, value in default_environment().items()})
    hooks = [hook for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    tools = [Requirement(tool) for hook in hooks for tool in hook.get("additional_dependencies", [])]
    compared = {tool.name: str(tool.specifier) for tool in tools if tool.name in pinned}
    assert compared == {name: f"=={pinned[name]}" for name in ("ruff", "nbstripout")}


def imports(path: Path, *, at_import: bool) -> set[str]:
    """Return the modules that a file imports: all of them, or those that importing the file brings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return imported(tree.body if at_import else ast.walk(tree)) - {"hatlab"}


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names)


@cache
def distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


def undeclared(modules: set[str], declared: list[str]) -> set[str]:
    names = {canonicalize_name(Requirement(line).name) for line in declared}
    return {
        module
        for module in modules
        if not names & {canonicalize_name(name) for name in distributions().get(module, [])}
    }


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "hatlab").rglob("*.py")),
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_library_imports_what_it_declares_and_no_jupyter(path: Path) -> None:
    """Jupyter's parts and Dask may be imported where they are used, never by importing a module."""
    declared = PROJECT["dependencies"]
    early = [line for line in declared if Requirement(line).name not in LATE]
    assert len(early) == len(declared) - len(LATE)
    assert not undeclared(imports(path, at_import=True), early)
    assert not undeclared(imports(path, at_import=False) - OPTIONAL, [*declared, *DISPENSABLE])


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_import_what_the_library_declares(path: Path) -> None:
    """They are in the wheel, and `hatlab reproduce` runs them without any extra."""
    found = {name for _, tree in Notebook.read(path).code for name in imported(ast.walk(tree))}
    assert "hatlab" in found
    assert not undeclared(found - {"hatlab"}, PROJECT["dependencies"])


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.name)
def test_tests_import_what_is_declared(path: Path) -> None:
    helpers = {file.stem for file in (ROOT / "tests").rglob("*.py")} | {"tests", "benchmarks", "docs"}
    declared = [str(requirement) for requirement in DIRECT]
    assert not undeclared(imports(path, at_import=False) - helpers - OPTIONAL, declared)


@pytest.mark.parametrize(
    ("version", "can_make_venv", "said"),
    [
        ((3, 10, 4), True, "3.11, 3.12, 3.13; .* is Python 3.10"),
        ((3, 14, 0), True, "is Python 3.14"),
        ((2, 7, 18), False, "is Python 2.7"),
        ((3, 11, 2), False, "python3.11-venv"),
    ],
)
def test_setup_says_what_is_wrong_with_a_python(version: tuple[int, ...], can_make_venv: bool, said: str) -> None:
    assert re.search(said, SETUP["python_problem"](version, can_make_venv))


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 1), (3, 13, 9)])
def test_setup_accepts_the_supported_pythons(version: tuple[int, ...]) -> None:
    assert SETUP["python_problem"](version, True) is None


@pytest.mark.parametrize(
    ("system", "machine", "gigabytes", "cpu_torch", "said"),
    [
        ("Darwin", "x86_64", 100, False, "Intel Mac"),
        ("Linux", "x86_64", 6, False, "10 GB of free disk space"),
        ("Linux", "x86_64", 6, True, None),
        ("Darwin", "arm64", 6, False, None),
        ("Windows", "AMD64", 1, False, "4 GB of free disk space, and .* has 1.0 GB"),
    ],
)
def test_setup_says_what_is_wrong_with_a_machine(
    system: str, machine: str, gigabytes: int, cpu_torch: bool, said: str | None
) -> None:
    problem = SETUP["machine_problem"](system, machine, gigabytes * 10**9, cpu_torch)
    assert problem is None if said is None else re.search(said, problem)


def test_setup_leaves_an_environment_alone_that_make_did_not_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".venv").mkdir()
    mine = tmp_path / ".venv" / "mine"
    mine.touch()
    with pytest.raises(SystemExit, match="was not made by make"):
        SETUP["begin"]()
    assert mine.exists()


def test_setup_starts_a_half_made_environment_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / ".venv" / "lib" / "half"
    broken.mkdir(parents=True)
    (tmp_path / ".venv" / ".installing").touch()
    calls: list[list[str]] = []
    monkeypatch.setitem(SETUP["begin"].__globals__, "machine_problem", lambda *_: None)
    monkeypatch.setattr("subprocess.check_call", calls.append)
    assert SETUP["begin"]() is False
    assert not broken.exists()
    assert calls == [[sys.executable, "-m", "venv", ".venv"]]


def test_setup_keeps_a_whole_environment_when_an_update_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class without a network goes on with what it has."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".venv").mkdir()
    installed = tmp_path / ".venv" / ".installed"
    installed.touch()
    monkeypatch.setattr("sys.argv", ["setup_venv.py"])
    with pytest.raises(SystemExit, match="Not updated"):
        SETUP["main"]()
    assert installed.exists()
