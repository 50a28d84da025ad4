"""Native builds are left out only where git shows that nothing of theirs changed."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from native_builds import ROOT, WATCHED, left_out

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def checkout(tmp_path):
    """A repository whose main has two commits, the second one of documents."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "cpp_ext/api.cpp")
    commit(folder, "docs/page.md")
    return folder


def git(folder, *words):
    names = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *names, *words], cwd=folder, check=True, capture_output=True)


def commit(folder, path):
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as text:
        text.write("line\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", path)


def test_the_last_commit_of_main_counts(checkout):
    assert "NATIVE_BUILDS=always" in left_out("changed", checkout)
    commit(checkout, "tests/native/test_builds.py")
    assert left_out("changed", checkout) is None
    commit(checkout, "docs/page.md")
    assert left_out("changed", checkout) is not None


def test_all_commits_of_a_branch_count(checkout):
    git(checkout, "switch", "--quiet", "--create", "work")
    commit(checkout, "cpp_ext/api.cpp")
    commit(checkout, "docs/page.md")
    assert left_out("changed", checkout) is None
    git(checkout, "switch", "--quiet", "--create", "other", "main")
    commit(checkout, "docs/page.md")
    commit(checkout, "docs/page.md")
    assert left_out("changed", checkout) is not None


@pytest.mark.parametrize("path", ["cpp_ext/api.cpp", "cpp_ext/new.cpp"])
def test_what_is_not_committed_counts(checkout, path):
    (checkout / path).write_text("changed")
    assert left_out("changed", checkout) is None


def test_what_git_cannot_tell_counts_as_changed(checkout, tmp_path):
    assert left_out("changed", tmp_path) is None
    shallow = tmp_path / "shallow"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", checkout.as_uri(), shallow], check=True)
    assert left_out("changed", shallow) is None


def test_what_is_asked_for(checkout):
    commit(checkout, "cpp_ext/api.cpp")
    assert left_out("never", checkout) is not None
    commit(checkout, "docs/page.md")
    assert left_out("always", checkout) is None


def test_watched_paths_are_there():
    assert [path for path in WATCHED if not (ROOT / path).exists()] == []
