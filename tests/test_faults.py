"""A few of the faults of faults.py; results/reference/faults has the outcome of sixty."""

import os
import shutil

import pytest
from faults import FAULTS, SMALL, WORKER, CannotInject, reference, try_fault

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX"),
    pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0 and not shutil.which("chattr"), reason="needs chattr"),
]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return reference(tmp_path_factory.mktemp("reference") / "lab", SMALL, n_runs=4)


@pytest.mark.parametrize("fault", [*FAULTS, WORKER])
def test_a_batch_survives(tmp_path, expected, fault):
    try:
        outcome = try_fault(tmp_path / "lab", fault, "small", SMALL, expected, seed=11)
    except CannotInject as error:
        pytest.skip(str(error))
    assert outcome.survived, (outcome, (tmp_path / "lab" / "log.txt").read_text())
