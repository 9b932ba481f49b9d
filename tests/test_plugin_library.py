"""Which plugin library an engine is built with, and what other programs are told to load."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsesam_deploy import plugin_library as plugins
from sparsesam_deploy.errors import EnvironmentProblem, InvalidInput
from sparsesam_deploy.plugin_library import choose_library, find_library, tensorrt_major


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """A folder that stands for the package's own, with an empty library."""
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    monkeypatch.setattr(plugins, "__file__", str(tmp_path / "plugin_library.py"))
    library = tmp_path / "plugins" / plugins.LIBRARY
    library.parent.mkdir()
    library.touch()
    return library


def test_the_installed_library_is_found(installed):
    assert find_library() == installed
    assert choose_library("tensorrt", None, without=False) == installed


def test_the_variable_comes_first(installed, tmp_path, monkeypatch):
    other = tmp_path / "other.so"
    monkeypatch.setenv(plugins.VARIABLE, str(other))
    with pytest.raises(InvalidInput, match=r"SPARSESAM_PLUGIN_LIBRARY is .*other.so, which is no file"):
        find_library()
    other.touch()
    assert find_library() == other


def test_a_bare_name_becomes_a_path(installed, monkeypatch):
    """dlopen looks for a name without a slash elsewhere, and may find another library."""
    monkeypatch.chdir(installed.parent)
    assert choose_library("tensorrt", Path(plugins.LIBRARY), without=False) == installed
    monkeypatch.setenv(plugins.VARIABLE, plugins.LIBRARY)
    assert find_library() == installed


def test_a_missing_second_library_is_said(installed, sparsesam_export):
    outcome = sparsesam_export("plugin-path", "--register")
    assert outcome.code == 3 and "libsparsesam_plugins_register.so is not there" in outcome.err


def test_without_a_library_tensorrt_is_refused_with_both_remedies(installed):
    installed.unlink()
    with pytest.raises(EnvironmentProblem, match=r"not installed: SPARSESAM_NATIVE=1 pip install .*--no-plugins"):
        choose_library("tensorrt", None, without=False)


def test_function_bodies_are_chosen_not_fallen_back_to(installed, tmp_path):
    assert choose_library("tensorrt", None, without=True) is None
    assert choose_library("tensorrt-rtx", None, without=False) is None
    with pytest.raises(InvalidInput, match="exclude each other"):
        choose_library("tensorrt", installed, without=True)


def test_another_file_is_no_library(installed):
    with pytest.raises(EnvironmentProblem, match="is no plugin library for this machine"):
        tensorrt_major(installed)


def test_plugin_path_without_a_library(sparsesam_export, installed):
    installed.unlink()
    outcome = sparsesam_export("plugin-path")
    assert outcome.code == 3 and "the plugin library is not installed" in outcome.err
