"""The README and the pages: every Python block runs, every link leads somewhere, and the README stays a page."""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hatlab
from hatlab.support.paths import home

PAGES = sorted([home() / "README.md", *(home() / "docs").glob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# page -> why its blocks are not executed here
NOT_RUN = {
    "cluster.md": "needs Slurm; its arguments are tested below, and a smaller cluster in tests/batches/test_cluster.py",
    "own_notebooks.md": "cells of a notebook, which tests/test_notebooks.py compares with the one that it executes",
}
RUN = [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8")) and page.name not in NOT_RUN]


def name(page: Path) -> str:
    return page.name


def test_what_is_not_run_is_there() -> None:
    for page in NOT_RUN:
        assert BLOCK.search((home() / "docs" / page).read_text(encoding="utf-8"))
    assert {"README.md", "runs.md", "own_networks.md", "package.md"} <= {page.name for page in RUN}


@pytest.mark.parametrize("page", RUN, ids=name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    """As a reader would copy it, into one script, in a folder of its own; warnings are errors."""
    script = tmp_path / "script.py"
    script.write_text("\n".join(BLOCK.findall(page.read_text(encoding="utf-8"))), encoding="utf-8")
    command = [sys.executable, "-W", "error", script]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "HATLAB_RESULTS": str(tmp_path / "results"), "PYTHONPATH": str(home())},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if page.name == "own_networks.md":
        assert re.search(r"task 1: [1-9]\d* protected values have not moved", done.stdout)
        shares = re.findall(r"task \d: ([\d.]+)% of the test images", done.stdout)
        assert len(shares) == 2 and all(float(share) > 90 for share in shares)


@pytest.mark.skipif(os.name != "posix", reason="the script of a batch system of POSIX")
def test_the_arguments_of_the_recipe_for_slurm() -> None:
    """dask-jobqueue makes the job's script of them, and hatlab.batch takes what it is given."""
    from dask_jobqueue import SLURMCluster

    (block,) = BLOCK.findall((home() / "docs" / "cluster.md").read_text(encoding="utf-8"))
    calls = {ast.unparse(node.func): node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)}
    given = {word.arg: ast.literal_eval(word.value) for word in calls["SLURMCluster"].keywords if word.arg}
    with SLURMCluster(
        **given, scheduler_options={"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    ) as made:  # fmt: skip
        script = made.job_script()
    for line in ("#SBATCH -p gpu", "#SBATCH --cpus-per-task=4", "#SBATCH --gres=gpu:1", "export OMP_NUM_THREADS=4"):
        assert line in script.splitlines()
    assert script.rstrip().endswith("--nthreads 1")  # after the 4 of cores: the last one counts
    batch = calls["hatlab.batch"]
    inspect.signature(hatlab.batch).bind(*batch.args, **{str(word.arg): word.value for word in batch.keywords})


def test_the_readme_is_read_in_two_minutes() -> None:
    lines = (home() / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s#]+)", text)
    made = ("api/", "/")  # by the site's build
    missing = [
        target for target in targets
        if not re.match(r"[a-z]+:", target) and not target.startswith(made) and not (page.parent / target).exists()
    ]  # fmt: skip
    assert not missing


def anchors(page: Path) -> set[str]:
    """The addresses of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_fragment_of_a_page_is_a_heading(page: Path) -> None:
    links = re.findall(r"\]\((?![a-z]+:)([^)\s#]*\.md)?#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    missing = [
        (target, fragment)
        for target, fragment in links
        if fragment not in anchors(page.parent / target if target else page)
    ]
    assert not missing


def test_the_page_on_pypi_needs_no_file_of_the_repository() -> None:
    """Its links and pictures are absolute, or there are none."""
    text = (home() / "docs" / "package.md").read_text(encoding="utf-8")
    assert not re.findall(r"\]\((?!https?:)[^)]*\)|src=", text)
