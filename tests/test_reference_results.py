"""What is committed below results/reference: whole, small, true to its manifests, the same when it is made again."""

import base64
import io
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

import hatlab
from hatlab.analysis import store
from hatlab.analysis.metrics import mean_interval
from hatlab.config import RunConfig
from hatlab.support.paths import home
from hatlab.support.provenance import checksum

REFERENCE = home() / "results" / "reference"
TOOL = runpy.run_path(str(home() / "tools" / "reference.py"), run_name="reference")
REJUDGE = runpy.run_path(str(home() / "tools" / "rejudge.py"), run_name="rejudge")
GPUS = sorted(path.parent for path in REFERENCE.glob("gpu/*/manifest.json"))
FIGURES = sorted({path.parent for path in REFERENCE.glob("*/*/manifest.json")} - set(GPUS))


def test_there_are_results():
    assert FIGURES and GPUS


@pytest.mark.parametrize("folder", FIGURES, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_a_folder_holds_what_its_manifest_says(folder):
    artifacts = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["artifacts"]
    assert {path.name for path in folder.iterdir()} == {*artifacts, "manifest.json"}
    assert {name: checksum(folder / name) for name in artifacts} == artifacts
    assert any(name.endswith(".ipynb") for name in artifacts) and any(name.endswith(".png") for name in artifacts)


@pytest.mark.parametrize("folder", GPUS, ids=lambda folder: folder.name)
def test_what_a_gpu_sent_back_is_whole(folder):
    """Each run has its tables as its manifest names them (no checkpoint, no CSV), and the figures count these runs."""
    manifests = {path.parent: json.loads(path.read_text()) for path in folder.glob("runs/*/manifest.json")}
    for run, manifest in manifests.items():
        files = {name: wanted for name, wanted in manifest["files"].items() if name.endswith(".parquet")}
        assert {path.name for path in run.iterdir()} == {*files, "manifest.json"}
        assert {name: checksum(run / name) for name in files} == files
        assert manifest["state"] == "finished" and manifest["run_id"] == run.name
    assert len(manifests) == len(pd.read_csv(folder / "runs.csv")) > 0
    figures = json.loads((folder / "manifest.json").read_text())["figures"]
    assert max(figure["finished"] for figure in figures.values()) <= len(manifests)


def test_all_of_it_is_small():
    """A clone is to stay light; 23 runs at the paper's size from a GPU are 1.9 MB of tables."""
    assert sum(path.stat().st_size for path in REFERENCE.rglob("*") if path.is_file()) < 25_000_000


def test_no_file_names_a_folder_of_the_machine_that_made_it():
    texts = [path for path in REFERENCE.rglob("*") if path.suffix in (".ipynb", ".json", ".csv", ".md")]
    found = [path for path in texts if re.search(r"/(work|home|root|tmp|Users)/", path.read_text(encoding="utf-8"))]
    assert found == []


def test_the_page_shows_the_verdicts_that_are_committed():
    page = (home() / "results" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- verdicts: (\w+) -->", page)) == {
        p.parent.name for p in REFERENCE.glob("*/verdicts.csv")
    }
    assert TOOL["readme"](page, REFERENCE) == page


def test_every_file_that_the_page_names_is_there():
    page = (home() / "results" / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page) if "://" not in link]
    assert links and [link for link in links if not (home() / "results" / link).exists()] == []


@pytest.mark.parametrize("profile", ["mnist", "cnn", "tight"])
def test_profiles_that_were_not_made_again_are_judged_by_todays_rules(profile):
    table, findings = REJUDGE["every"](profile)
    assert table.to_csv(index=False, lineterminator="\n") == (REFERENCE / profile / "verdicts.csv").read_text()
    written = {path.stem: path.read_text(encoding="utf-8") for path in (REFERENCE / profile).glob("findings/*.csv")}
    assert {name: found.to_csv(index=False, lineterminator="\n") for name, found in findings.items()} == written


# --- the tool ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def outcome(tmp_path):
    """The outcome of a figure, with a large table."""
    folder = tmp_path / "quick" / "figure"
    folder.mkdir(parents=True)
    pd.DataFrame({"x": range(30_000)}).to_csv(folder / "large.csv")
    for name in ("large.parquet", "small.csv"):
        (folder / name).write_text(name)
    (folder / "notebook.ipynb").write_text(json.dumps({"cells": []}))
    artifacts = {path.name: checksum(path) for path in folder.iterdir()}
    (folder / "manifest.json").write_text(json.dumps({"artifacts": artifacts}))
    return folder


def test_an_outcome_is_taken_over_without_large_csv_files(outcome, tmp_path):
    target = tmp_path / "reference" / "quick" / "figure"
    target.mkdir(parents=True)
    (target / "stale.png").write_text("of an earlier outcome")
    assert TOOL["take"](outcome, target) == ["large.csv"]
    manifest = json.loads((target / "manifest.json").read_text())
    assert {path.name for path in target.iterdir()} == {*manifest["artifacts"], "manifest.json"}
    assert set(manifest["artifacts"]) == {"large.parquet", "small.csv", "notebook.ipynb"}
    assert manifest["left_out"] == {"large.csv": checksum(outcome / "large.csv")}


def test_a_picture_is_kept_in_256_colours_and_still_says_what_it_shows(outcome, tmp_path):
    from hatlab.experiments.walkthrough import figures
    from hatlab.support.artifacts import MANIFEST

    large = outcome / "curves.png"
    gradients = figures.cumulative_gradients(points=61, steps=20)
    texts = {"Title": "curves", "Description": "hatlab runs: 0123"}
    figures.gradient_annealing(gradients).savefig(large, dpi=300, metadata=texts)
    (outcome / MANIFEST).write_text(json.dumps({"artifacts": {large.name: checksum(large)}}))
    TOOL["take"](outcome, tmp_path / "target")

    small = tmp_path / "target" / large.name
    manifest = json.loads((tmp_path / "target" / MANIFEST).read_text())
    assert manifest["artifacts"] == {large.name: checksum(small)}
    assert small.stat().st_size < large.stat().st_size / 2
    with Image.open(large) as before, Image.open(small) as after:
        assert {name: after.info[name] for name in texts} == texts
        changes = np.abs(np.asarray(before.convert("RGB"), int) - np.asarray(after.convert("RGB"), int))
    assert changes.max() < 16  # of 255 levels


def test_pictures_inside_a_notebook_are_kept_in_256_colours(outcome, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    picture = io.BytesIO()
    Image.fromarray(noise).save(picture, "PNG")
    outputs = [
        {"output_type": "display_data", "data": {"image/png": base64.b64encode(picture.getvalue()).decode()}},
        {"output_type": "display_data", "data": {"text/plain": "4"}},
        {"output_type": "stream", "text": "said"},
    ]
    cells = [{"cell_type": "markdown", "source": "é"}, {"cell_type": "code", "outputs": outputs}]
    (outcome / "notebook.ipynb").write_text(json.dumps({"cells": cells}))
    (outcome / "manifest.json").write_text(
        json.dumps({"artifacts": {"notebook.ipynb": checksum(outcome / "notebook.ipynb")}})
    )
    TOOL["take"](outcome, tmp_path / "target")
    taken = json.loads((tmp_path / "target" / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    small = base64.b64decode(taken[1]["outputs"][0]["data"].pop("image/png"))
    del outputs[0]["data"]["image/png"]
    assert taken == cells and len(small) < len(picture.getvalue()) / 2
    assert Image.open(io.BytesIO(small)).size == (200, 200)


def test_the_checkouts_folder_is_cut_from_a_notebook(outcome, tmp_path):
    said = json.dumps({"cells": [{"source": f"saved in {home()}/results/notebooks/0123, not in /elsewhere"}]})
    (outcome / "notebook.ipynb").write_text(said)
    manifest = {"artifacts": {"notebook.ipynb": checksum(outcome / "notebook.ipynb")}}
    (outcome / "manifest.json").write_text(json.dumps(manifest))
    TOOL["take"](outcome, tmp_path / "target")
    taken = tmp_path / "target" / "notebook.ipynb"
    (cell,) = json.loads(taken.read_text())["cells"]
    assert cell == {"source": "saved in results/notebooks/0123, not in /elsewhere"}
    assert json.loads((tmp_path / "target" / "manifest.json").read_text())["artifacts"][taken.name] == checksum(taken)


def test_an_outcome_that_was_altered_is_not_taken_over(outcome, tmp_path):
    (outcome / "small.csv").write_text("altered")
    with pytest.raises(SystemExit, match=r"small.csv is not the file that its manifest names"):
        TOOL["take"](outcome, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_table_that_differs_in_one_byte_is_found(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    table = pd.DataFrame({"x": [0.1, np.nan], "name": ["a", None]})
    for folder in (one, other):
        folder.mkdir()
        (folder / "small.csv").write_text("small.csv")
        table.to_parquet(folder / "large.parquet")
        table.to_parquet(folder / "gone.parquet")
    assert TOOL["differences"](one, other) == []
    (other / "small.csv").write_text("small.csw")
    (other / "gone.parquet").unlink()
    table.to_parquet(other / "large.parquet", row_group_size=1)
    assert TOOL["differences"](one, other) == ["gone.parquet", "large.parquet", "small.csv"]


def test_parquet_of_another_release_is_compared_by_its_values(tmp_path):
    table = pd.DataFrame({"x": [0.1, np.nan], "name": ["a", None]})
    changed = table.assign(x=[np.nextafter(0.1, 1), np.nan])
    for folder, content, release in (("ours", table, None), ("theirs", table, "1.0"), ("changed", changed, "1.0")):
        (tmp_path / folder).mkdir()
        stored = pa.Table.from_pandas(content)
        if release is not None:
            about = json.loads(stored.schema.metadata[b"pandas"]) | {"pandas_version": release}
            stored = stored.replace_schema_metadata({"pandas": json.dumps(about)})
        parquet.write_table(stored, tmp_path / folder / "t.parquet")
    assert TOOL["differences"](tmp_path / "ours", tmp_path / "theirs") == []
    assert TOOL["differences"](tmp_path / "ours", tmp_path / "changed") == ["t.parquet"]


@pytest.mark.parametrize("figure", ["weight_reuse"])
def test_a_committed_notebook_makes_the_same_tables_again(figure, tmp_path):
    """Byte for byte, on whatever CPU this is; with other releases of pandas or pyarrow, value for value."""
    from hatlab.batches.reproduce import reproduce

    (folder,) = reproduce("quick", only=[figure], results=tmp_path)
    tables = [path.name for path in Path(REFERENCE, "quick", figure).iterdir() if path.suffix in TOOL["TABLES"]]
    assert len(tables) >= 2
    assert TOOL["differences"](REFERENCE / "quick" / figure, folder) == []


def test_what_the_page_says_of_the_gpus_runs_is_what_they_came_to():
    page = (home() / "results" / "README.md").read_text(encoding="utf-8")
    (folder,) = GPUS
    runs = pd.read_csv(folder / "runs.csv")
    whole = runs[runs["seed"].isin([0, 1, 2])]
    rows = []
    for c, same in whole.groupby("c"):
        usage, accuracy = (mean_interval(same[name].tolist()) for name in ("usage", "accuracy"))
        cells = f"{usage.mean:.1f} [{usage.low:.1f}, {usage.high:.1f}] | {accuracy.mean:.2f} [{accuracy.low:.2f}"
        rows.append(f"| {c:g} | {cells}, {accuracy.high:.2f}] |")
    assert "\n".join(rows) in page and len(rows) == 7 and (whole.groupby("c").size() == 3).all()
    moved = runs.loc[runs["backward_transfer"] != 0, "backward_transfer"]
    counts = {4: "four", len(runs) - 4: f"{len(runs) - 4} of the {len(runs)}"}
    said = f"was 0 in {counts[len(runs) - len(moved)]} runs, and from {moved.min():.3f} to {moved.max():+.3f} points"
    assert said in " ".join(page.split())


def test_a_profiles_runs_are_packed_as_far_as_they_are_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HATLAB_RESULTS", str(tmp_path / "results"))
    config = RunConfig(widths=(12,), max_epochs=1, n_tasks=1, batch_size=256, min_units=0)
    one, two = hatlab.sweep(config.grid(seed=[0, 1]))
    figure = tmp_path / "toy" / "figure"
    figure.mkdir(parents=True)
    (figure / "manifest.json").write_text(json.dumps({"runs": [{"run_id": one.run_id}, {"run_id": "gone"}]}))
    path = tmp_path / "toy" / "runs.zip"
    assert TOOL["_store"]("toy", set(), path) == 1 and set(store.verify(path)) == {one.run_id}
    assert "1 runs of committed figures are not in" in capsys.readouterr().out
    assert TOOL["_store"]("toy", {one.run_id, two.run_id}, path) == 2
    assert set(store.verify(path)) == {one.run_id, two.run_id}
    with pytest.raises(SystemExit, match="a run that is named has to be finished"):
        TOOL["_store"]("toy", {"other"}, path)
