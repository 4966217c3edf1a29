"""What pyproject.toml cannot say: a wheel holds the checkout's notebooks, as the folder `notebooks` of the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["hatlab", "hatlab.*"]), "hatlab.notebooks"],
    package_dir={"hatlab.notebooks": "notebooks"},
    package_data={"hatlab": ["py.typed"], "hatlab.notebooks": ["*.ipynb", "figures.yaml"]},
)
