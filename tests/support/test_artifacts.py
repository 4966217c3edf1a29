import json
import subprocess
import sys
import threading
import time

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image

from hatlab.config import RunConfig
from hatlab.support.artifacts import complete, publish, save
from hatlab.support.paths import RUN
from hatlab.support.provenance import checksum, now
from hatlab.training.runs import Run, Tables


@pytest.fixture
def figure():
    plt.switch_backend("agg")
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([0, 1], label="c = 0.1")
    axes.legend()
    yield figure
    plt.close(figure)


def run(seed, tmp_path):
    config = RunConfig(seed=seed)
    manifest = {
        "run_id": config.run_id,
        "config": config.model_dump(mode="json"),
        "order": [0, 1],
        "sessions": [{"device": "cpu"}],
        "files": {},
        "data": {"digits": "sha256:1"},
    }
    return Run(config, tmp_path / "runs" / config.run_id, manifest, Tables(*[pd.DataFrame()] * 4))


def test_everything_is_written_and_accounted_for(figure, tmp_path):
    runs = [run(seed, tmp_path) for seed in (0, 1)]
    table = pd.DataFrame({"c": [0.1, 0.2], "usage": [0.5, 1 / 3]})
    folder = save("f", runs=runs, figures={"f": figure}, tables={"t": table}, profile="p", results=tmp_path)
    assert folder == tmp_path / "p" / "f"
    assert {path.name for path in folder.iterdir()} == {"f.png", "f.pdf", "t.parquet", "t.csv", "manifest.json"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["artifacts"] == {
        path.name: checksum(path) for path in folder.iterdir() if path.name != "manifest.json"
    }
    assert [entry["run_id"] for entry in manifest["runs"]] == [each.run_id for each in runs]
    assert [entry["config"]["seed"] for entry in manifest["runs"]] == [0, 1]
    assert manifest["data"] == {"digits": "sha256:1"} and manifest["profile"] == "p"
    assert {"versions", "git", "platform", "written"} <= set(manifest)
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "t.parquet"), table)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "t.csv"), table)


def test_figures_name_their_runs_and_can_be_printed(figure, tmp_path):
    made = run(3, tmp_path)
    folder = save("f", runs=[made], figures={"f": figure}, tables={}, results=tmp_path)
    with Image.open(folder / "f.png") as image:
        assert image.text["Description"] == f"hatlab runs: {made.run_id}"
        assert image.size == (900, 600) and round(image.info["dpi"][0]) == 300
    pdf = (folder / "f.pdf").read_bytes()
    assert f"hatlab runs: {made.run_id}".encode() in pdf
    assert b"/Type0" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf


def test_equal_content_has_equal_bytes(figure, tmp_path):
    table = pd.DataFrame({"usage": [1 / 3]})
    folders = [
        save(
            "f", runs=[run(0, tmp_path)], figures={"f": figure}, tables={"t": table}, profile=profile, results=tmp_path
        )
        for profile in ("one", "two")
    ]
    first, second = [json.loads((folder / "manifest.json").read_text())["artifacts"] for folder in folders]
    assert first == second


def test_completing_keeps_what_the_notebook_saved(figure, tmp_path):
    folder = save("f", runs=[run(0, tmp_path)], figures={"f": figure}, tables={}, results=tmp_path)
    executed = folder / "n.ipynb"
    executed.write_text("{}")
    manifest = complete(folder, executed, {"seconds": 2.5})
    assert manifest == json.loads((folder / "manifest.json").read_text())
    assert manifest["seconds"] == 2.5 and manifest["runs"] and "session" not in manifest
    assert manifest["artifacts"] == {name: checksum(folder / name) for name in ("f.png", "f.pdf", "n.ipynb")}


def test_a_clock_that_steps_back_loses_nothing(tmp_path, monkeypatch):
    """Two hours, while the notebook runs: what it saves seems older than its start."""

    begun, clock = now(), time.time
    monkeypatch.setattr(time, "time", lambda: clock() - 7200)
    folder = save("f", runs=[], tables={"t": TABLE}, results=tmp_path)
    executed = folder / "n.ipynb"
    executed.write_text("{}")
    manifest = complete(folder, executed, {"started": begun})
    assert manifest["written"] < manifest["started"]
    assert set(manifest["artifacts"]) == {"t.parquet", "t.csv", "n.ipynb"}


def test_a_notebook_that_saved_nothing_gets_a_manifest_of_its_own(tmp_path):
    executed = tmp_path / "n.ipynb"
    executed.write_text("{}")
    manifest = complete(tmp_path, executed, {})
    assert "runs" not in manifest and list(manifest["artifacts"]) == ["n.ipynb"]


@pytest.mark.parametrize("text", ['{"artifacts": {', "[]", "{}", '{"artifacts": 3}', "\x00"])
def test_completing_refuses_a_manifest_that_was_damaged(tmp_path, text):
    folder = save("f", runs=[], tables={"t": TABLE}, results=tmp_path)
    executed = folder / "n.ipynb"
    executed.write_text("{}")
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is not as artifacts\.save wrote it"):
        complete(folder, executed, {})


# --- several calls --------------------------------------------------------------------------------------------------

TABLE = pd.DataFrame({"usage": [0.5, 1 / 3]})
CODE = """
import pandas
from hatlab.support.artifacts import save
save("f", runs=[], tables={{name: pandas.DataFrame({{"a": [1]}}) for name in {names}}}, results="{results}")
"""


def tables_of(folder):
    """The tables that a folder's manifest declares; all files that it declares are as it says."""
    declared = json.loads((folder / "manifest.json").read_text())["artifacts"]
    assert declared == {name: checksum(folder / name) for name in declared}
    return {name.removesuffix(".parquet") for name in declared if name.endswith(".parquet")}


def save_elsewhere(results, *names):
    """Save tables to the same figure in a process of its own, and return that."""
    return subprocess.Popen([sys.executable, "-c", CODE.format(names=names, results=results)])


def test_a_second_call_adds_to_the_first_and_replaces_what_has_its_name(figure, tmp_path):
    first = save("f", runs=[run(0, tmp_path)], tables={"t": TABLE, "u": TABLE}, results=tmp_path, notebook="n.ipynb")
    second = save("f", runs=[run(1, tmp_path)], tables={"t": TABLE * 2}, figures={"f": figure}, results=tmp_path)
    assert first == second and tables_of(first) == {"t", "u"}
    manifest = json.loads((first / "manifest.json").read_text())
    assert set(manifest["artifacts"]) == {"t.parquet", "t.csv", "u.parquet", "u.csv", "f.png", "f.pdf"}
    assert [entry["config"]["seed"] for entry in manifest["runs"]] == [0, 1]
    assert manifest["notebook"]["name"] == "n.ipynb"
    pd.testing.assert_frame_equal(pd.read_parquet(first / "t.parquet"), TABLE * 2)
    save("f", runs=[run(1, tmp_path)], tables={}, results=tmp_path)
    assert len(json.loads((first / "manifest.json").read_text())["runs"]) == 2  # a run is named once


def test_a_notebook_that_is_opened_anew_starts_anew(tmp_path):
    """What an earlier process saved is not declared for ever."""
    assert save_elsewhere(tmp_path, "old", "kept").wait() == 0
    folder = save("f", runs=[], tables={"kept": TABLE}, results=tmp_path)
    assert tables_of(folder) == {"kept"}


def test_in_a_batch_all_that_the_kernel_starts_adds_to_one_manifest(tmp_path, monkeypatch):
    monkeypatch.setenv(RUN, str(tmp_path / "notebooks" / "0123456789ab"))
    folder = save("f", runs=[], tables={"a": TABLE}, results=tmp_path)
    assert save_elsewhere(tmp_path, "b", "c").wait() == 0
    save("f", runs=[], tables={"d": TABLE}, results=tmp_path)
    assert tables_of(folder) == {"a", "b", "c", "d"}
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is not as artifacts\.save wrote it"):
        save("f", runs=[], tables={"e": TABLE}, results=tmp_path)


def test_calls_at_the_same_time_leave_one_sound_manifest(tmp_path, monkeypatch):
    monkeypatch.setenv(RUN, "0123456789ab")
    names = [f"t{i}" for i in range(6)]
    threads = [
        threading.Thread(target=save, args=("f",), kwargs={"runs": [], "tables": {name: TABLE}, "results": tmp_path})
        for name in names
    ]
    others = [save_elsewhere(tmp_path, f"p{i}", "both") for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait() for other in others] == [0, 0]
    assert tables_of(tmp_path / "interactive" / "f") == {*names, "p0", "p1", "both"}


# --- what cannot be saved -------------------------------------------------------------------------------------------


def test_a_figure_that_cannot_be_drawn_is_named_and_all_else_is_saved(figure, tmp_path):
    bad, axes = plt.subplots()
    axes.set_title(r"$\frac{$")
    tables = {"t": TABLE, "twice": pd.DataFrame([[1, 2]], columns=["a", "a"]), "u": TABLE}
    with pytest.raises(ValueError, match=r"^table 'twice' cannot .* 'a' stands twice .*; figure 'bad' cannot .*frac"):
        save("f", runs=[], figures={"bad": bad, "good": figure}, tables=tables, results=tmp_path)
    folder = tmp_path / "interactive" / "f"
    assert tables_of(folder) == {"t", "u"}
    assert {path.stem for path in folder.iterdir()} == {"t", "u", "good", "manifest"}
    plt.close(bad)


def test_a_table_that_is_none_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"table 't' cannot be saved: AttributeError: 'Series' object"):
        save("f", runs=[], tables={"t": TABLE["usage"]}, results=tmp_path)


@pytest.mark.parametrize("name", ["a/b", "../a", "", ".a", "..", 3])
def test_a_name_that_is_none_of_a_file_is_refused_before_anything_is_written(tmp_path, name):
    for arguments in ({"name": name}, {"name": "f", "tables": {"t": TABLE, name: TABLE}}):
        with pytest.raises(ValueError, match="is no file name: allowed is text without a slash"):
            save(**arguments, runs=[], results=tmp_path)
    assert not list(tmp_path.iterdir())


# --- published ------------------------------------------------------------------------------------------------------


def published(tmp_path, **facts):
    """The folder and the manifest of an outcome with a table that was copied to p/f, and where it was copied from."""
    source = save("run", runs=[], tables={"t": pd.DataFrame({"a": [1]})}, profile="notebooks", results=tmp_path)
    folder = tmp_path / "p" / "f"
    publish(source, folder, {"profile": "p", **facts})
    return source, folder, json.loads((folder / "manifest.json").read_text())


def test_a_published_folder_holds_what_its_manifest_declares_and_no_other_file(tmp_path):
    folder = tmp_path / "p" / "f"
    (folder / "kept").mkdir(parents=True)
    (folder / "old.png").touch()
    source, folder, manifest = published(tmp_path, figure="f", versions=None)
    assert manifest["profile"] == "p" and manifest["figure"] == "f" and "versions" not in manifest
    assert {path.name for path in folder.iterdir()} == {"t.parquet", "t.csv", "manifest.json", "kept"}
    assert {path.name for path in folder.parent.iterdir()} == {"f"}  # nothing beside it that people would copy
    for name, wanted in manifest["artifacts"].items():
        assert checksum(folder / name) == wanted == checksum(source / name)


@pytest.mark.parametrize("damage", ["altered", "missing", "added", "no manifest"])
def test_publishing_mends_what_is_not_as_it_was_and_leaves_alone_what_is(tmp_path, damage):
    source, folder, manifest = published(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    publish(source, folder, {"profile": "p"})
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    if damage == "altered":
        (folder / "t.csv").write_text("altered")
    elif damage == "added":
        (folder / "t.partial.ipynb").touch()
    else:
        (folder / ("t.csv" if damage == "missing" else "manifest.json")).unlink()
    publish(source, folder, {"profile": "p"})
    assert {path.name for path in folder.iterdir()} == set(before)
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert {name: checksum(folder / name) for name in manifest["artifacts"]} == manifest["artifacts"]


def test_what_its_own_manifest_does_not_declare_is_not_published(tmp_path):
    source, folder, _ = published(tmp_path)
    (source / "t.csv").write_text("altered")
    with pytest.raises(ValueError, match=r"t\.csv is not what manifest\.json beside it declares"):
        publish(source, folder, {"profile": "q"})
    assert not (folder / "manifest.json").exists()  # and so nothing there is called whole
    assert not list(folder.glob(".*"))
