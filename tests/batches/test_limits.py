import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatlab.batches.limits import LEAST_MEMORY, LONGEST, MOST_MEMORY, Limits
from hatlab.config import ConfigError

HERE = "tcp://127.0.0.1:1"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"workers": 0}, "workers = 0: allowed is a whole number from 1 to 1000"),
        ({"workers": 10**9}, "workers = 1000000000: allowed is a whole number from 1 to 1000"),
        ({"workers": True}, "workers = True: allowed"),
        ({"workers": 1.5}, "workers = 1.5: allowed"),
        ({"retries": -1}, "retries = -1: allowed is a whole number from 0 to 1000"),
        ({"timeout": 0}, "timeout = 0: allowed is a number of seconds above 0"),
        ({"timeout": -3.0}, "timeout = -3.0: allowed"),
        ({"timeout": math.nan}, "timeout = nan: allowed"),
        ({"timeout": math.inf}, "timeout = inf: allowed"),
        ({"timeout": "60"}, "timeout = '60': allowed"),
        ({"memory": "1e400"}, "memory = '1e400': allowed are bytes from 10MB upwards"),
        ({"memory": "nan"}, "memory = 'nan': allowed"),
        ({"memory": "-4GB"}, "memory = '-4GB': allowed"),
        ({"memory": "4"}, "memory = '4': allowed"),  # four bytes
        ({"memory": "lots"}, "memory = 'lots': allowed"),
        ({"memory": ""}, "memory = '': allowed"),
        ({"memory": math.nan}, "memory = nan: allowed"),
        ({"memory": True}, "memory = True: allowed"),
        ({"resources": {"GPU": math.nan}, "scheduler": HERE}, "resources = GPU=nan: allowed is a number above 0"),
        ({"resources": {"GPU": math.inf}, "scheduler": HERE}, "resources = GPU=inf: allowed"),
        ({"resources": {"GPU": -1}, "scheduler": HERE}, "resources = GPU=-1: allowed"),
        ({"resources": {"GPU": 1}}, "only workers of a scheduler have any"),
        ({"workers": 2, "scheduler": HERE}, "has workers of its own"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(options, problem):
    with pytest.raises(ConfigError) as raised:
        Limits(**options)
    assert problem in str(raised.value)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError) as raised:
        Limits(workers=0, retries=-1, timeout=math.nan, memory="lots")
    assert [line.split()[0] for line in str(raised.value).splitlines()] == ["workers", "retries", "timeout", "memory"]


@pytest.mark.parametrize(
    ("memory", "meant"),
    [("4GB", 4 * 10**9), ("4GiB", 4 * 2**30), ("500 MB", 5 * 10**8), (2**30, 2**30), ("1e9", 10**9), (None, None)],
)
def test_memory_is_read_as_people_write_it(memory, meant):
    assert Limits(memory=memory).bytes == meant


@given(st.one_of(st.floats(), st.integers()), st.one_of(st.floats(), st.integers()))
def test_whatever_number_is_given_it_is_used_as_it_is_or_refused(timeout, memory):
    if 0 < timeout <= LONGEST:
        assert Limits(timeout=timeout).timeout == timeout
    else:
        with pytest.raises(ConfigError, match="timeout = "):
            Limits(timeout=timeout)
    if LEAST_MEMORY <= memory <= MOST_MEMORY:
        assert Limits(memory=memory).bytes == int(memory)
    else:
        with pytest.raises(ConfigError, match="memory = "):
            Limits(memory=memory)
