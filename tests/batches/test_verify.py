"""A claim is found by its figure or its words, rerun or priced, and what comes out is compared value by value."""

import math

import pandas as pd
import pytest
from click.testing import CliRunner

from hatlab.analysis import verdicts
from hatlab.batches import reproduce as making
from hatlab.batches import verify
from hatlab.cli.main import cli
from hatlab.config import ConfigError


def committed():
    rows = [
        verdicts.number("accuracy on two tasks", [99.0, 99.1, 99.05], verdicts.Printed(99.0, 0.1)),
        verdicts.check("usage never falls", [True] * 4),
        verdicts.new("one seed's | value", [3.0], "of one seed"),
    ]
    table = verdicts.table(rows).assign(figure="two_tasks", profile="mnist", command="", seconds=20.0)
    other = table.head(1).assign(figure="permuted", claim="accuracy on ten tasks", seconds=2000.0)
    return pd.concat([table, other], ignore_index=True)


def here(*values, verdict="agrees"):
    rows = committed().head(3).copy()
    rows["ours"] = values
    rows.loc[0, "verdict"] = verdict
    return rows


def test_a_claim_is_found_by_its_figure_or_its_words():
    table = committed()
    assert len(verify.matching(table, "mnist/two_tasks")) == 3
    assert verify.matching(table, "NEVER falls")["claim"].tolist() == ["usage never falls"]
    with pytest.raises(ConfigError, match="'accuracy' is in claims of mnist/two_tasks, mnist/permuted: name one"):
        verify.matching(table, "accuracy")
    with pytest.raises(ConfigError, match=r"'mnist/two_task' .*did you mean 'mnist/two_tasks'\?"):
        verify.matching(table, "mnist/two_task")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (99.05, "the same"),
        (99.05 + 1e-10, "the same"),
        (99.1, "within the committed interval"),
        (99.4, "outside of it"),
        (math.nan, "not found"),
    ],
)
def test_what_comes_out_is_compared_with_the_committed_interval(value, said):
    found = verify.compared(committed().head(3), here(value, 100.0, 3.0))
    assert found["difference"].tolist() == [said, "the same", "the same"]


def test_one_seed_has_no_interval_to_lie_in():
    found = verify.compared(committed().head(3), here(99.05, 100.0, 4.0))
    assert found["difference"].iloc[2] == "another value (one seed has no interval)"


def test_the_table_has_both_values_and_both_verdicts():
    text = verify.as_markdown(verify.compared(committed().head(3), here(99.4, 100.0, 3.0, verdict="differs")))
    head, _, first, second, third = text.splitlines()
    assert head.startswith("| claim | committed [95%] | here [95%] |")
    assert "| 99.05% [98.93, 99.17] | 99.40% [" in first and "| undecided, differs | outside of it |" in first
    assert second.endswith("| passes | the same |") and third.startswith("| one seed's \\| value |")
    missing = verify.as_markdown(verify.compared(committed().head(1), here(99.4, 100.0, 3.0).tail(2)))
    assert missing.splitlines()[-1].endswith("| not found |")


def test_what_takes_long_is_priced_and_what_does_not_is_rerun(monkeypatch, tmp_path):
    monkeypatch.setattr(verify, "claims", committed)
    made = []

    def reproduce(profile, only, results):
        made.append((profile, only, results))
        folder = tmp_path / profile / only[0]
        folder.mkdir(parents=True, exist_ok=True)
        here(99.05, 100.0, 3.0)[list(verdicts.Verdict._fields)].to_csv(folder / "verdicts.csv", index=False)
        return [folder]

    monkeypatch.setattr(making, "reproduce", reproduce)
    priced = CliRunner().invoke(cli, ["verify", "mnist/permuted"])
    assert "its runs took 33 min" in priced.output and "hatlab verify --run mnist/permuted" in priced.output
    assert not made
    rerun = CliRunner().invoke(cli, ["verify", "mnist/two_tasks", "--results", str(tmp_path)])
    assert made == [("mnist", ["two_tasks"], tmp_path)] and rerun.output.count("the same |") == 3
    CliRunner().invoke(cli, ["verify", "ten tasks", "--run"])
    assert made[-1][1] == ["permuted"] and made[-1][2].name == "verify"  # nothing that was made before is loaded


def test_without_a_claim_the_figures_are_listed_with_what_they_take():
    told = CliRunner().invoke(cli, ["verify"])
    assert told.exit_code == 0
    lines = {line.split()[0]: line for line in told.output.splitlines()}
    assert {"quick/forgetting", "mnist/two_tasks", "tight/permuted_digits"} <= set(lines)
    assert all(line.endswith(" of training") for line in lines.values())
