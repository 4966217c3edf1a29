import os

import pytest

from hatlab.support import provenance
from hatlab.support.provenance import checksum, library_version, releases, tree_checksum


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two modules in place of hatlab."""
    folder = tmp_path / "package"
    (folder / "figures").mkdir(parents=True)
    (folder / "grids.py").write_text("a = 1\n")
    (folder / "figures" / "style.py").write_text("b = 1\n")
    monkeypatch.setattr(provenance, "__file__", str(folder / "provenance.py"))
    return folder


def test_an_editors_lock_link_and_what_python_caches_are_not_the_librarys_code(package):
    before = library_version()
    if os.name == "posix":
        (package / ".#grids.py").symlink_to("user@host.1234:567")  # emacs; it leads nowhere
        os.mkfifo(package / "pipe.py")
        (package / "dangling.py").symlink_to("nowhere.py")
    (package / ".grids.py.swp").write_text("x")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "grids.py").write_text("x")
    (package / "notes.txt").write_text("x")
    assert library_version() == before


@pytest.mark.parametrize("change", ["grids.py", "figures/style.py", "new.py"])
def test_any_change_of_its_code_changes_the_version(package, change):
    before = library_version()
    with (package / change).open("a") as file:
        file.write("# a comment\n")
    assert library_version() != before


def test_a_folders_checksum_is_of_names_and_bytes(tmp_path):
    (tmp_path / "a").write_text("1")
    first = tree_checksum(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert tree_checksum(tmp_path) != first
    (tmp_path / "b").rename(tmp_path / "a")
    assert tree_checksum(tmp_path) == first != checksum(tmp_path / "a")


def test_releases_are_those_that_compute_without_the_label_of_a_build(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"torch": "2.11.0+cpu"}.get(name, "1.2"))
    found = releases(["networkx"])
    assert found["torch"] == "2.11.0" and found["networkx"] == "1.2" and found["python"].count(".") == 1
    assert "rich" not in found and set(found) == {*provenance.NUMERIC, "networkx", "python"}
