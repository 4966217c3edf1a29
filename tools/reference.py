"""The committed results: taken over from a profile's outcome, compared with a rerun, and shown in results/README.md.

    python tools/reference.py take PROFILE [FIGURE ...]     results/PROFILE/FIGURE -> results/reference/PROFILE/FIGURE
    python tools/reference.py check PROFILE [FIGURE ...]    rerun into a folder that is thrown away; compare all tables
    python tools/reference.py store PROFILE [RUN ...]       pack the figures' runs, and those named, into runs.zip
    python tools/reference.py readme                        write results/README.md's verdicts and findings anew

`take` leaves out large CSV files, whose Parquet twins hold the same, stores PNGs in 256 colours, also those inside
notebooks, which makes them a quarter as large, and cuts the checkout's folder from paths in notebooks; the PDFs stay as
they are. `check` ends with
an error if a byte of a table differs.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pyarrow import parquet

from hatlab import RunConfig, sweep
from hatlab.analysis import verdicts
from hatlab.analysis.store import pack, unpack, verify
from hatlab.batches.reproduce import reproduce
from hatlab.support.artifacts import COST, cost
from hatlab.support.files import atomic, write_json
from hatlab.support.paths import checkout, results_root
from hatlab.support.progress import format_seconds
from hatlab.support.provenance import checksum
from hatlab.support.values import read_yaml

MOST_BYTES = 80_000  # of a CSV
TABLES = (".csv", ".parquet")
BLOCK = re.compile(r"(<!-- (verdicts|findings): ([\w/]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def take(source: Path, target: Path) -> list[str]:
    """Copy the outcome of a figure, whose files have to be those of its manifest; return the names left out."""
    manifest = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
    for name, expected in manifest["artifacts"].items():
        if checksum(source / name) != expected:
            raise SystemExit(f"{source / name} is not the file that its manifest names: rerun the figure")
    large = [name for name in manifest["artifacts"] if name.endswith(".csv") and _size(source / name) > MOST_BYTES]
    manifest["left_out"] = {name: manifest["artifacts"].pop(name) for name in large}
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in manifest["artifacts"]:
        if name.endswith(".png"):
            _with_palette(source / name, target / name)
        elif name.endswith(".ipynb"):
            text = (source / name).read_text(encoding="utf-8").replace(f"{checkout()}/", "")
            (target / name).write_text(_with_small_pictures(text), encoding="utf-8")
        else:
            shutil.copyfile(source / name, target / name)
        manifest["artifacts"][name] = checksum(target / name)
    write_json(target / "manifest.json", manifest)
    return large


def judged(profile: Path) -> pd.DataFrame:
    """Return the verdicts of a profile's figures, in the order of `figures.yaml`, each with what its figure cost.

    Figures whose verdicts are of an older kind are left out: `tools/rejudge.py` judges them anew.
    """
    tables = []
    for name in read_yaml((checkout() / "notebooks" / "figures.yaml").read_text(encoding="utf-8"))[profile.name]:
        path = profile / name / "verdicts.parquet"
        if path.exists() and tuple(table := pd.read_parquet(path)) == verdicts.Verdict._fields:
            manifest = json.loads((profile / name / "manifest.json").read_text(encoding="utf-8"))
            tables.append(table.assign(figure=name, **cost(manifest)))
    return pd.concat(tables, ignore_index=True)[["figure", *verdicts.Verdict._fields, *COST]]


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of the tables in `one` that are missing or not the same in `other`.

    The same means byte by byte. A Parquet file names the releases of pandas and pyarrow that wrote it: where these
    differ, the values have to be the same.
    """
    names = sorted(path.name for path in one.iterdir() if path.suffix in TABLES)
    return [name for name in names if not (other / name).exists() or not _same(one / name, other / name)]


def _same(one: Path, other: Path) -> bool:
    if one.suffix != ".parquet" or _writer(one) == _writer(other):
        return one.read_bytes() == other.read_bytes()
    ours, theirs = (parquet.read_table(path).to_pandas(ignore_metadata=True) for path in (one, other))
    return ours.equals(theirs)


def _writer(path: Path) -> tuple[str, str]:
    file = parquet.read_metadata(path)
    return file.created_by, json.loads(file.metadata[b"pandas"])["pandas_version"]


def readme(text: str, reference: Path) -> str:
    """Return `text` with what its comments ask for: the verdicts of a profile, what an ablation concludes."""

    def block(match: re.Match[str]) -> str:
        start, what, place, end = match.groups()
        folder = reference / place
        path = folder / f"{what}.csv"
        if what == "verdicts":
            return f"{start}{verdicts.as_markdown(verdicts.read(path))}\n{_costs(folder)}\n{end}"
        anew = folder.parent / what / f"{folder.name}.csv"  # of tools/rejudge.py
        table = pd.read_csv(anew if anew.exists() else path)
        lines = table[table["part"] != "reading"]["text"]
        return start + "".join(f"- {line}\n" for line in lines) + end

    return BLOCK.sub(block, text)


def _costs(profile: Path) -> str:
    """Say what each figure's training took, and the most memory that its notebook held, where that was recorded."""
    said = []
    for path in sorted(profile.glob("*/manifest.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        runs, _, seconds, memory = manifest["runs"], *cost(manifest).values()
        sessions = [session for run in runs for session in run["sessions"]]
        least = "" if all("seconds" in session for session in sessions) else "at least "  # one was stopped
        held = "" if math.isnan(memory) else f", {memory:.1f} GB"
        count = f"{len(runs)} run{'s' * (len(runs) > 1)}"
        said.append(f"{path.parent.name} {least}{format_seconds(seconds)} ({count}{held})")
    return f"Training took, where and with how many threads the manifests say: {', '.join(said)}.\n"


def _with_small_pictures(text: str) -> str:
    """Return a notebook's text with its PNGs in 256 colours."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if picture := output.get("data", {}).get("image/png"):
                small = io.BytesIO()
                _with_palette(io.BytesIO(base64.b64decode("".join(picture))), small)
                output["data"]["image/png"] = base64.b64encode(small.getvalue()).decode()
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _with_palette(source: Path | BinaryIO, target: Path | BinaryIO) -> None:
    """Write a PNG of 256 colours, with the texts that say what it shows and which runs are in it, if it has them."""
    with Image.open(source) as image:
        texts = PngInfo()
        for key in [key for key in ("Title", "Description") if key in image.info]:
            texts.add_text(key, image.info[key])
        image.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            target, "PNG", optimize=True, pnginfo=texts, dpi=image.info.get("dpi")
        )


def _size(path: Path) -> int:
    return path.stat().st_size


def _store(profile: str, names: set[str], path: Path) -> int:
    """Pack the runs of a profile's committed figures, and those named, into its store; return how many there are.

    Runs of figures that are not in the results folder any more are left out, and their number is told.
    """
    results = results_root()
    if path.exists():
        unpack(path, results)
    wanted = set(names)
    for manifest in path.parent.glob("*/manifest.json"):
        wanted |= {run["run_id"] for run in json.loads(manifest.read_text(encoding="utf-8"))["runs"]}
    files = {name: results / "runs" / name / "manifest.json" for name in sorted(wanted)}
    if gone := [name for name, file in files.items() if not file.exists()]:
        if named := sorted(names & set(gone)):
            raise SystemExit(f"{files[named[0]].parent} is not there: a run that is named has to be finished")
        print(f"{len(gone)} runs of committed figures are not in {results / 'runs'}, and are left out")
    configs = []
    for name, file in files.items():
        if name not in gone:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            configs += [RunConfig.parse(manifest["config"], str(file))] if manifest["state"] == "finished" else []
    pack(sweep(configs, results=results), path, f"runs of the profile {profile}")
    return len(configs)


def _figures(folder: Path, chosen: Sequence[str]) -> list[str]:
    found = sorted(path.parent.name for path in folder.glob("*/manifest.json"))
    if unknown := [name for name in chosen if name not in found]:
        raise SystemExit(f"{folder} has no figure {', '.join(unknown)} (it has {', '.join(found) or 'none'})")
    return list(chosen) or found


def main(arguments: Sequence[str]) -> None:
    """Do what the module's text says."""
    reference = checkout() / "results" / "reference"
    match arguments:
        case ["take", profile, *chosen]:
            source = results_root() / profile
            for name in _figures(source, chosen):
                left = take(source / name, reference / profile / name)
                print(f"{profile}/{name}" + (f", without {', '.join(left)}" if left else ""))
            judged(reference / profile).to_csv(reference / profile / "verdicts.csv", index=False, lineterminator="\n")
        case ["check", profile, *chosen]:
            names = _figures(reference / profile, chosen)
            with tempfile.TemporaryDirectory() as folder:
                reproduce(profile, only=names, results=folder)
                bad = [
                    f"{name}/{table}"
                    for name in names
                    for table in differences(reference / profile / name, Path(folder, profile, name))
                ]
            if bad:
                raise SystemExit(f"not the same: {', '.join(bad)}")
            print(f"{len(names)} figures of {profile}: all tables are the same, byte for byte")
        case ["store", profile, *further]:
            path = reference / profile / "runs.zip"
            names = set(verify(path)) if path.exists() else set()
            print(f"{path.relative_to(checkout())}: {_store(profile, {*names, *further}, path)} runs")
        case ["readme"]:
            path = checkout() / "results" / "README.md"
            with atomic(path) as temporary:
                temporary.write_text(readme(path.read_text(encoding="utf-8"), reference), encoding="utf-8")
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
