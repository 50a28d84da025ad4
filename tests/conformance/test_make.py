"""``conformance/make.py`` makes what is committed."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from case_files import CASES
from make import changed_files, write_cases


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    with pytest.MonkeyPatch.context() as patch:
        # A disk that others use takes seconds to flush.
        patch.setattr(os, "fsync", lambda _: None)
        write_cases(folder)
    return folder


def test_what_is_made_is_what_is_committed(made):
    assert changed_files(CASES, made) == []


def test_content_is_compared_where_libraries_differ(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "versions.json"
    versions = json.loads(path.read_text())
    versions["libraries"]["onnxruntime"] = "1.99.0"
    path.write_text(json.dumps(versions))
    assert changed_files(CASES, tmp_path) == []
    other = tmp_path / "rules" / "sizes.json"
    other.write_text(other.read_text().replace('"sizes": null', '"sizes": {}'))
    (tmp_path / "calls" / "tiny.json").unlink()
    assert changed_files(CASES, tmp_path) == ["calls/tiny.json", "rules/sizes.json"]


def test_the_cases_stay_small():
    assert sum(path.stat().st_size for path in CASES.rglob("*") if path.is_file()) < 2_500_000
