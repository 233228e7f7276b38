from __future__ import annotations

import platform
from importlib.metadata import version

import distcomp
from distcomp import versions


def test_the_versions_are_those_that_the_metadata_tells() -> None:
    told = versions.installed_versions()
    assert told == (distcomp.__version__, platform.python_version(), version("cloudpickle"))


def test_a_package_that_is_not_there_has_no_version() -> None:
    assert versions.version_of("no-such-package") == ""
