"""What of the ROS 2 package can be held without ROS: its imports, its files, its example."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "integrations" / "ros2"
#: Modules of mmedge whose names are on the page of the Python API.
PUBLIC = {"mmedge", "mmedge.recording.ros", "mmedge.spec", "mmedge.stream"}


def test_the_package_imports_public_names_of_mmedge_alone():
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    files = sorted((PACKAGE / "mmedge_ros").glob("*.py"))
    checked = 0
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    assert alias.name == "mmedge" or not alias.name.startswith("mmedge."), path
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "mmedge":
                assert node.module in PUBLIC, f"{path.name}: {node.module}"
                assert node.module == "mmedge" or f":: {node.module}\n" in page
                public = importlib.import_module(node.module)
                for alias in node.names:
                    assert alias.name in public.__all__, f"{path.name}: {node.module}.{alias.name}"
                    checked += 1
    assert len(files) == 7
    assert checked >= 10


def test_files_for_ros_name_what_there_is():
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package = ET.parse(PACKAGE / "package.xml").getroot()
    assert package.findtext("name") == "mmedge_ros"
    assert package.findtext("version") == project["version"]
    assert package.findtext("license") == "Apache-2.0"
    assert project["classifiers"] == ["License :: OSI Approved :: Apache Software License"]
    assert package.findtext("export/build_type") == "ament_python"
    assert (PACKAGE / "resource" / "mmedge_ros").exists()
    for entry in project["scripts"].values():
        module, function = entry.split(":")
        source = (PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        assert f"\ndef {function}(" in source
    # Every package that the node imports is one that it depends on.
    depends = {each.text for each in package.findall("exec_depend")}
    for path in (PACKAGE / "mmedge_ros").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) else ""
            name = str(module).split(".")[0]
            if name.endswith("_msgs") or name in ("rclpy", "rcl_interfaces"):
                assert name in depends, f"{path.name}: {name}"
    launch = (PACKAGE / "launch" / "stream.launch.py").read_text(encoding="utf-8")
    assert 'executable="stream_node"' in launch
    setup = (PACKAGE / "setup.py").read_text(encoding="utf-8")
    for file in re.findall(r'"((?:launch|config|resource|package)[^"]*)"', setup):
        assert (PACKAGE / file).exists(), file


def test_example_parameters_are_read_as_the_node_reads_them():
    pytest.importorskip("ruamel.yaml", reason="needs the extra ros (rosbags)")
    from mmedge.recording.ros import TYPES, read_parameter_file
    from mmedge.stream import Hold

    topics = read_parameter_file(PACKAGE / "config" / "robot.yaml")
    assert list(topics) == ["camera", "lidar", "arm", "text"]
    assert all(topic.type in TYPES for topic in topics.values())
    # A plain y is true to the YAML of ROS.
    assert topics["lidar"].fields == ("x", "y", "z")
    assert topics["lidar"].policy() == Hold(300.0)


def test_parameters_on_the_page_are_read():
    pytest.importorskip("ruamel.yaml", reason="needs the extra ros (rosbags)")
    import tempfile

    from mmedge.recording.ros import read_parameter_file

    page = (ROOT / "docs" / "howto" / "ros2.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        assert not re.search(r"[\[, ][yn][,\] ]", block), "a plain y or n is no text to ROS"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "p.yaml")
            path.write_text(block, encoding="utf-8")
            assert read_parameter_file(path)
