"""A few of the faults of faults.py; results/reference/faults has the outcome of sixty."""

import functools
import os
import shutil

import pytest
from faults import FAULTS, OWN, SMALL, WORKER, CannotInject, reference, try_fault

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX"),
    pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0 and not shutil.which("chattr"), reason="needs chattr"),
]
# a stopped kernel is waited for for a minute; test_batches has the same with less patience
KINDS = [fault for fault in (*FAULTS, WORKER) if fault != "kernel stopped"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return functools.cache(lambda code: reference(tmp_path_factory.mktemp("reference") / "lab", code, n_runs=3))


@pytest.mark.parametrize("fault", KINDS)
def test_a_batch_survives(tmp_path, expected, fault):
    code = OWN.get(fault, SMALL)
    try:
        outcome = try_fault(tmp_path / "lab", fault, "small", code, expected(code), seed=11)
    except CannotInject as error:
        pytest.skip(str(error))
    assert outcome.survived, (outcome, (tmp_path / "lab" / "log.txt").read_text())
