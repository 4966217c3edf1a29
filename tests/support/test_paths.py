from pathlib import Path

import pytest

from hatlab.support import paths


def test_home_is_the_checkout():
    assert paths.home() == Path(__file__).resolve().parent.parent.parent


def test_home_of_an_installed_package_is_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages" / "hatlab" / "support" / "paths.py"))
    monkeypatch.chdir(tmp_path)
    assert paths.home() == Path.cwd()


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
