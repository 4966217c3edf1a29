"""The public names: all are listed, and none is imported before it is used."""

import subprocess
import sys

import pytest

import hatlab


@pytest.mark.parametrize("name", hatlab.__all__)
def test_each_public_name_is_found_and_has_a_docstring(name):
    assert getattr(hatlab, name).__doc__


def test_dir_lists_the_public_names_and_imports_nothing():
    code = "import hatlab, sys; print(*dir(hatlab)); print('torch' in sys.modules, 'pandas' in sys.modules)"
    names, imported = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert names.split() == sorted([*hatlab.__all__, "__version__"])
    assert imported == "False False"


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'hatlab' has no attribute 'HATTransformer'"):
        _ = hatlab.HATTransformer
