"""Models and versions get into a repository whole, whatever interrupts the writer, and nothing there is overwritten."""

from __future__ import annotations

import os

import pytest

from sparsesam_deploy.errors import InvalidInput
from sparsesam_deploy.serving import publish
from tests.serving.builds import make_build
from tests.serving.test_repository import content


class Killed(BaseException):
    """Stands for a signal."""


@pytest.fixture
def interrupt(monkeypatch):
    """Fail when so many places have been moved; with ``killed`` the writer does not get to clear up either."""

    def at(moves: int, killed: bool) -> None:
        replace, done = os.replace, []

        def failing(source, target):
            if ".partial" in str(source.parent) and len(done) == moves:
                raise Killed
            replace(source, target)
            done.extend([target] if ".partial" in str(source.parent) else [])

        monkeypatch.setattr(os, "replace", failing)
        if killed:
            monkeypatch.setattr(publish, "undo_interrupted", lambda _: None)

    return at


@pytest.mark.parametrize("version", [1, 2], ids=["first", "added"])
@pytest.mark.parametrize("moves", [0, 1, 5])
def test_a_failed_move_leaves_what_was_there(build, write, interrupt, version, moves):
    repository = build.parent / "repository"
    before = content(write(build).output) if version > 1 else {}
    interrupt(moves, killed=False)
    with pytest.raises(Killed):
        write(build, version=version)
    assert content(repository) == before


@pytest.mark.parametrize("version", [1, 2], ids=["first", "added"])
@pytest.mark.parametrize("moves", [0, 1, 5])
def test_what_a_killed_writer_left_is_removed_by_the_next(
    tmp_path, build, onnx_files, write, interrupt, monkeypatch, version, moves
):
    """The next one may be of another build: nothing of the first is in its version."""
    repository = build.parent / "repository"
    before = content(write(build).output) if version > 1 else {}
    interrupt(moves, killed=True)
    with pytest.raises(Killed):
        write(build, version=version)
    monkeypatch.undo()
    assert len(content(repository)) > len(before)
    other = make_build(tmp_path / "other", onnx_files, plugin_library=b"plugins")
    files = content(write(other, version=version).output)
    assert {name: files[name] for name in before} == before
    assert publish.UNFINISHED not in files and files[f"sam_encoder/{version}/sm90.plan"]
    repository.rename(tmp_path / "mended")
    if version > 1:
        write(build)
    assert content(write(other, version=version).output) == files


def test_a_note_that_leads_out_of_the_repository_removes_nothing(tmp_path, build, write):
    (tmp_path / "repository").mkdir()
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "repository" / publish.UNFINISHED).write_text("sam\n../mine")
    with pytest.raises(InvalidInput, match=r"names '\.\./mine', which is no model"):
        write(build)
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize("name", ["Dockerfile", "README-sam-1.md"])
def test_a_file_that_someone_edited_stays_and_is_named(build, write, name):
    repository = build.parent / "repository"
    repository.mkdir()
    (repository / name).write_text("mine")
    written = write(build)
    assert (repository / name).read_text() == "mine" and written.kept == (repository / name,)


def test_files_that_say_the_same_are_not_named(build, write):
    assert write(build).kept == () == write(build, version=2).kept
