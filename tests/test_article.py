"""The article says what the committed tables say: numbers are read back from its PDF, and others from other tables."""

import math
import runpy
import shutil

import pandas as pd
import pypdf
import pytest

from hatlab.support.paths import home

BUILD = runpy.run_path(str(home() / "tools" / "article.py"), run_name="article")["build"]
REFERENCE = home() / "results" / "reference"


def text_of(pdf):
    return " ".join(" ".join(page.extract_text() for page in pypdf.PdfReader(pdf).pages).split())


@pytest.fixture(scope="module")
def article(tmp_path_factory):
    return BUILD(home(), tmp_path_factory.mktemp("article") / "article.pdf")


def shown(row):
    """A row's mean and interval as the article rounds them: two digits of half the interval's width, at most four."""
    reach = (row["high"] - row["low"]) / 2
    digits = min(max(1 - math.floor(math.log10(reach)), 0), 4) if reach > 0 else 2
    mean, low, high = (f"{row[name]:.{digits}f}" for name in ("ours", "low", "high"))
    unit = "%" if row["unit"].startswith("%") else f" {row['unit']}".rstrip()
    return f"{mean}{unit} [{low}, {high}]".replace("-", "−")


def test_numbers_and_statements_are_those_of_the_tables(article):
    said = text_of(article)
    assert "[Re] Overcoming Catastrophic Forgetting" in said
    tables = [pd.read_csv(REFERENCE / name / "verdicts.csv").fillna({"unit": ""}) for name in ("quick", "mnist")]
    rows = pd.concat(tables).query("kind in ('number', 'statement') and n > 1")
    assert len(rows) > 8 and rows["kind"].nunique() == 2
    missing = [shown(row) for row in rows.to_dict("records") if shown(row) not in said]
    assert missing == []
    agrees = sum((table["verdict"] == "agrees").sum() for table in tables)
    assert f"{agrees} agrees" in said


def test_a_changed_table_changes_the_article(article, tmp_path):
    shutil.copytree(home() / "results" / "article", tmp_path / "results" / "article")
    shutil.copytree(REFERENCE, tmp_path / "results" / "reference")
    path = tmp_path / "results" / "reference" / "mnist" / "verdicts.csv"
    table = pd.read_csv(path)
    row = (table["figure"] == "two_tasks") & (table["kind"] == "number")
    before = shown(table[row].fillna({"unit": ""}).iloc[0].to_dict())
    table.loc[row, ["ours", "low", "high"]] -= 1
    table.loc[row, "verdict"] = "differs"
    table.to_csv(path, index=False)
    said, other = text_of(article), text_of(BUILD(tmp_path, tmp_path / "article.pdf"))
    assert before in said and before not in other
    assert shown(table[row].fillna({"unit": ""}).iloc[0].to_dict()) in other and "1 differ" in other

    table[~row].to_csv(path, index=False)  # a row that the text does not name may go
    table[table["figure"] != "weight_reuse"].to_csv(path, index=False)
    with pytest.raises(Exception, match="mnist/weight_reuse: 0 rows start with"):
        BUILD(tmp_path, tmp_path / "article.pdf")


def test_the_committed_article_is_of_the_committed_results(article):
    committed = home() / "results" / "article" / "article.pdf"
    assert text_of(committed) == text_of(article), "run `make article`"
