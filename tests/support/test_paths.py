import re
from pathlib import Path

import pytest

from hatlab.config import ConfigError
from hatlab.support import paths

CHECKOUT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package that was installed without notebooks, and a current folder elsewhere."""
    package, current = tmp_path / "site-packages" / "hatlab", tmp_path / "current"
    package.mkdir(parents=True)
    current.mkdir()
    monkeypatch.setattr(paths, "PACKAGE", package)
    monkeypatch.chdir(current)
    return package


def test_home_and_notebooks_are_the_checkouts():
    assert paths.home() == paths.checkout() == CHECKOUT
    assert paths.notebooks() == CHECKOUT / "notebooks"


def test_home_of_an_installed_package_is_the_current_folder(installed):
    assert paths.home() == Path.cwd()
    assert paths.notebooks() == installed / "notebooks"


def test_a_pyproject_beside_an_installed_package_makes_no_checkout(installed):
    (installed.parent / "pyproject.toml").touch()
    (installed / "notebooks").mkdir()
    assert paths.home() == Path.cwd()
    assert paths.notebooks() == installed / "notebooks"


def test_what_needs_a_checkout_says_where_the_package_is(installed):
    with pytest.raises(ConfigError, match=rf"hatlab was imported from {re.escape(str(installed))}, which is not in"):
        paths.checkout()


def test_data_are_looked_for_in_hatlab_data_first(tmp_path, monkeypatch):
    monkeypatch.setenv("HATLAB_DATA", str(tmp_path))
    assert paths.data_roots() == [tmp_path, paths.home() / "data"]


@pytest.mark.parametrize("value", [None, ""])
def test_without_hatlab_data_only_home_is_searched(value, monkeypatch):
    monkeypatch.delenv("HATLAB_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("HATLAB_DATA", value)
    assert paths.data_roots() == [paths.cache_root()] == [paths.home() / "data"]


def test_results_root(tmp_path, monkeypatch):
    monkeypatch.delenv("HATLAB_RESULTS", raising=False)
    assert paths.results_root() == paths.home() / "results"
    monkeypatch.setenv("HATLAB_RESULTS", str(tmp_path))
    assert paths.results_root() == tmp_path
