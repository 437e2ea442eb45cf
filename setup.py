"""Puts search_spaces/ into the package as raysweep/search_spaces; all else stands in pyproject.toml."""

from setuptools import find_packages, setup

SHIPPED = "raysweep.search_spaces"
setup(
    packages=[*find_packages(include=["raysweep*"]), SHIPPED],
    package_dir={SHIPPED: "search_spaces"},
    package_data={"raysweep": ["py.typed"], SHIPPED: ["*.yaml"]},
)
