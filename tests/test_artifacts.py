import json
from datetime import UTC, datetime, timedelta

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image

from hatlab.artifacts import complete, publish, save
from hatlab.config import RunConfig
from hatlab.provenance import checksum
from hatlab.runs import Run, Tables


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
    since = datetime.now(UTC)
    folder = save("f", runs=[run(0, tmp_path)], figures={"f": figure}, tables={}, results=tmp_path)
    executed = folder / "n.ipynb"
    executed.write_text("{}")
    manifest = complete(folder, since, executed, {"seconds": 2.5})
    assert manifest == json.loads((folder / "manifest.json").read_text())
    assert manifest["seconds"] == 2.5 and manifest["runs"]
    assert manifest["artifacts"] == {name: checksum(folder / name) for name in ("f.png", "f.pdf", "n.ipynb")}


def test_completing_forgets_an_earlier_outcome(figure, tmp_path):
    folder = save("f", runs=[run(0, tmp_path)], figures={"f": figure}, tables={}, results=tmp_path)
    executed = folder / "n.ipynb"
    executed.write_text("{}")
    manifest = complete(folder, datetime.now(UTC) + timedelta(seconds=1), executed, {})
    assert "runs" not in manifest and list(manifest["artifacts"]) == ["n.ipynb"]


def test_completing_refuses_a_manifest_that_was_damaged_since_and_replaces_an_older_one(figure, tmp_path):
    since = datetime.now(UTC)
    folder = save("f", runs=[run(0, tmp_path)], figures={"f": figure}, results=tmp_path)
    executed = folder / "n.ipynb"
    executed.write_text("{}")
    (folder / "manifest.json").write_text('{"artifacts": {')
    with pytest.raises(ValueError, match=r"manifest\.json was damaged after the notebook wrote it"):
        complete(folder, since, executed, {})
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert list(complete(folder, later, executed, {})["artifacts"]) == ["n.ipynb"]


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
