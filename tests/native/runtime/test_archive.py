"""Files of bundles in C++ beside Python: the same are read, and the same are refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles_bad import file_attacks, zip_attacks
from bundles_bad.attack import on_directory, on_text, rewrite_manifest
from bundles_bad.zip_attacks import entries_of, pack
from fuzz.native import fuzz
from line_probe import LineProbe
from native_builds import ROOT
from tiny import GRAPH, LABELS, WEIGHTS

from mmedge.bundle.archive import open_archive
from mmedge.bundle.load import read_manifest
from mmedge.errors import BundleError
from mmedge.schema import path_fault

pytestmark = pytest.mark.native_build

ATTACKS = [*file_attacks.ATTACKS, *zip_attacks.ATTACKS]


@pytest.fixture(scope="module")
def files(probe) -> Iterator[LineProbe]:
    program = LineProbe(probe("archive_probe"))
    yield program
    program.close()


def listing(path: Path) -> list[str]:
    """What Python reads there, as the program lists it."""
    archive = open_archive(path)
    answers = ["zip" if archive.zipped else "directory"]
    for name in sorted(archive.sizes):
        data = archive.read(name)
        digest = archive.digester(name)()
        assert digest == hashlib.sha256(data).hexdigest()
        answers.append(f"{name}={archive.sizes[name]}={digest}")
    archive.check_unchanged()
    archive.close()
    return answers


def attempt(path: Path) -> tuple[list[str] | None, str]:
    """What Python reads there, or why it refuses."""
    try:
        return listing(path), ""
    except BundleError as error:
        return None, str(error)


LENGTHS = [*range(130), 1000, 4096, 100_003]

#: FIPS 180-4's examples, and the empty text.
KNOWN = {
    b"": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    b"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": (
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
    b"a" * 1_000_000: "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
}


def test_sha256_by_every_instruction(files, tmp_path):
    expected = dict(KNOWN)
    for length in LENGTHS:
        data = random.Random(length).randbytes(length)
        expected[data] = hashlib.sha256(data).hexdigest()
    for data, digest in expected.items():
        (tmp_path / "data").write_bytes(data)
        digests = files.get("hash", tmp_path / "data")
        assert set(digests) == {digest}
        assert files.get("crc", tmp_path / "data") == [str(zlib.crc32(data))]
    flags = Path("/proc/cpuinfo").read_text()
    if "sha_ni" in flags:
        assert len(digests) == 2


ARM_PROGRAM = """
#include <cstdio>
#include "bundle/sha256.h"
using namespace mmedge::runtime;
int main() {
  uint8_t data[300];
  for (int i = 0; i < 300; ++i) data[i] = static_cast<uint8_t>(i * 7);
  for (ShaInstructions each : {ShaInstructions::kPortable, ShaInstructions::kArm}) {
    if (!has_instructions(each)) return 1;
    for (size_t size = 0; size <= 300; ++size) {
      Sha256 hash(each);
      hash.update({data, size});
      std::puts(hash.hexadecimal().c_str());
    }
  }
}
"""


def test_sha256_by_the_instructions_of_arm(tmp_path):
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("no aarch64-linux-gnu-g++ or qemu-aarch64")
    (tmp_path / "hash.cpp").write_text(ARM_PROGRAM)
    runtime = ROOT / "cpp_ext/runtime"
    subprocess.run(
        [compiler, "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-static", f"-I{runtime}",
         tmp_path / "hash.cpp", runtime / "bundle/sha256.cpp", "-o", tmp_path / "hash"],
        check=True,
    )  # fmt: skip
    done = subprocess.run(
        [emulator, "-cpu", "max", tmp_path / "hash"], check=True, capture_output=True, text=True
    )
    data = bytes(i * 7 % 256 for i in range(300))
    expected = [hashlib.sha256(data[:size]).hexdigest() for size in range(301)]
    assert done.stdout.split() == expected * 2


def test_paths(files):
    rng = random.Random(3)
    paths = ["", "a", "a" * 200, "a" * 201, "/a", "a/", "a//b", ".", "..", "a/..", "a/.b", "a.b/-c",
             "C:", "C:/a", "a:b", "é", "+a", "a+", "_", "a/b/c", "a\\b", "~a", "a b"]  # fmt: skip
    alphabet = "aZ09_.+-/\\: é~"
    paths += ["".join(rng.choices(alphabet, k=rng.randrange(9))) for _ in range(3000)]
    for path in paths:
        faults = files.get("fault", path)
        assert bool(faults and faults[0]) == (path_fault(path) is not None), path


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_attacks(attack, files, tiny_bundle, tmp_path):
    path = attack.make(tiny_bundle, tmp_path)
    if attack.late:  # the file itself is as the manifest says
        assert files.get("check", path) == ["checked"]
        assert files.get("list", path) == listing(path)
    else:
        message = files.error("check", path)
        assert re.search(attack.words, message), message
        assert message.startswith(str(path))
        assert len(message) < 1000 + len(str(path))


def good_zips(folder: Path, tmp_path: Path) -> list[Path]:
    """The tree in zips of several writers."""
    tools, python, wide = (tmp_path / f"{name}.mmedge" for name in ("tools", "python", "wide"))
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    paths = [python, wide]
    with zipfile.ZipFile(python, "w") as archive:
        for name in names:
            archive.write(folder / name, name)
    with zipfile.ZipFile(wide, "w") as archive:
        for name in names:  # zip64 sizes in each local header, before a number needs them
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as file:
                file.write((folder / name).read_bytes())
    if shutil.which("zip"):
        paths.append(tools)
        subprocess.run(["zip", "-q", "-0", "-D", "-X", "-r", tools, "."], cwd=folder, check=True)
    return paths


def wide_zip(folder: Path, path: Path, monkeypatch) -> Path:
    """The tree in a zip with all records of zip64, as one past 4 GiB has them."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    monkeypatch.undo()
    data = bytearray(path.read_bytes())
    assert data[-42:-38] == b"PK\x06\x07"
    data[-14:-2] = b"\xff" * 12  # Python leaves numbers there that real ones could not hold
    path.write_bytes(data)
    return path


def test_good_bundles(files, tiny_bundle, tiny_zip, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tiny_bundle)
    zips = [
        tiny_zip,
        *good_zips(tiny_bundle, tmp_path),
        wide_zip(tiny_bundle, tmp_path / "big.mmedge", monkeypatch),
    ]
    assert len(zips) >= 4
    expected = listing(tiny_bundle)
    for path in [tiny_bundle, tmp_path / "link", f"{tiny_bundle}/", f"{tiny_bundle}//./"]:
        assert files.get("list", path) == expected
        assert files.get("check", path) == ["checked"]
    for path in [*zips, f"{tiny_zip}/", f"{tiny_zip}/."]:
        taken = files.get("list", path)
        assert taken == listing(Path(path))
        assert [line for line in taken if line != "zip"] == expected[1:]
        assert files.get("check", path) == ["checked"]
    assert files.get("open", tmp_path / "link") == [str(tiny_bundle.resolve())]


def mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(changed))
        # Half of the changes are in the directory and the records behind it.
        if rng.random() < 0.5:
            at = rng.randrange(max(0, len(changed) - 700), len(changed))
        length = rng.choice((1, 2, 4, 8, 20))
        match rng.randrange(5):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = changed[at : at + length]
            case 3:
                value = rng.choice((0, 1, 0xFFFF, 0xFFFFFFFF, rng.getrandbits(32)))
                changed[at : at + 4] = value.to_bytes(4, "little")
            case 4:
                other = rng.randrange(len(changed))
                changed[at : at + length] = changed[other : other + length]
    return bytes(changed)


def test_mutated_zips(files, tiny_bundle, tiny_zip, tmp_path, monkeypatch):
    """Python and C++ take and refuse the same zips, and read the same of them."""
    seeds = [
        tiny_zip.read_bytes(),
        pack(entries_of(tiny_bundle)),
        wide_zip(tiny_bundle, tmp_path / "big.mmedge", monkeypatch).read_bytes(),
    ]
    rng = random.Random(20261129)
    path = tmp_path / "mutated.mmedge"
    verdicts = []
    for _ in range(700):
        path.write_bytes(mutated(rng.choice(seeds), rng))
        expected, message = attempt(path)
        taken, answers = files.ask("list", path)
        verdicts.append(taken)
        if expected is not None:
            assert answers == expected
        # The same fault; names that are no plain text are written otherwise.
        elif "\\" not in answers[0] and '"' not in message:
            assert answers == [message]
        assert taken == (expected is not None)
    assert 50 < sum(verdicts) < 650


@pytest.mark.parametrize("name", [b"\xff", b"onnx/\xc3\xa9", b"a" * 220 + b"\xff", b"\xf0\x9f"])
def test_names_that_are_no_ascii(name, files, tiny_bundle, tmp_path):
    path = shutil.copytree(tiny_bundle, tmp_path / "b")
    (tmp_path / "b.mmedge").write_bytes(
        pack([*entries_of(path), zip_attacks.Entry("x" * len(name), b"")]).replace(
            b"x" * len(name), name
        )
    )
    Path(os.fsdecode(os.fsencode(path) + b"/" + name)).write_bytes(b"")
    for each in (path, tmp_path / "b.mmedge"):
        expected, _ = attempt(each)
        assert expected is None
        assert re.search("unsafe characters|path longer than 200", files.error("list", each))


def test_unreadable_paths(files, tiny_bundle, tmp_path):
    missing = tmp_path / "robot.mmedge"
    assert "no such file or folder" in files.error("open", missing)
    aside = tmp_path / ".robot.mmedge.x1/robot.mmedge.old"
    aside.mkdir(parents=True)
    message = files.error("open", missing)
    assert f"lies at {aside}: move it back" in message
    with pytest.raises(BundleError) as caught:
        open_archive(missing)
    assert str(caught.value) == message
    os.mkfifo(tmp_path / "pipe")
    assert "this is neither" in files.error("open", tmp_path / "pipe")
    assert "cannot be read" in files.error("open", tiny_bundle / LABELS / "more")
    assert "holds no manifest.json" in files.error("open", tmp_path)
    (tmp_path / "text").write_text("no zip")
    assert "not a whole zip" in files.error("open", tmp_path / "text")
    assert "cannot be read" in files.error("open", tmp_path / ("a" * 300))


def rewritten(path: Path) -> None:
    """The same bytes in the same file, with the times that it had."""
    status = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def exchanged(path: Path) -> None:
    """A copy in its place, of the same size and times."""
    shutil.copy2(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").replace(path)


def linked(path: Path) -> None:
    """Its folder becomes a link to the folder."""
    path.parent.rename(path.parent.with_name("aside"))
    path.parent.symlink_to(path.parent.with_name("aside"))


def lengthened(path: Path) -> None:
    """More of it."""
    with path.open("ab") as file:
        file.write(b"x")


CHANGES = [rewritten, exchanged, linked, lengthened, Path.unlink]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changed(change, files, tiny_bundle, tmp_path):
    path = shutil.copytree(tiny_bundle, tmp_path / "b")
    files.get("open", path)
    before = files.get("read", WEIGHTS)
    assert before == files.get("digest", WEIGHTS)
    assert files.get("file", WEIGHTS) == [str(path / WEIGHTS)]
    files.get("unchanged")
    change(path / WEIGHTS)
    for command in ("read", "digest", "file"):
        assert f"{WEIGHTS} changed since" in files.error(command, WEIGHTS)
    assert "changed since" in files.error("unchanged")
    if change is not linked:  # the rest of that folder is out of reach, too
        files.get("read", GRAPH)
    files.get("read", LABELS)


def test_a_root_that_changed(files, tiny_bundle, tiny_zip, tmp_path):
    path = shutil.copytree(tiny_bundle, tmp_path / "b")
    files.get("open", path)
    path.rename(tmp_path / "c")
    assert "changed since" in files.error("unchanged")
    shutil.copytree(tiny_bundle, path)
    assert "changed since" in files.error("unchanged")
    zipped = shutil.copy(tiny_zip, tmp_path / "b.mmedge")
    files.get("open", zipped)
    before = files.get("digest", WEIGHTS)
    exchanged(Path(zipped))
    assert "changed since" in files.error("unchanged")
    # What is mapped stays as it was.
    assert files.get("read", WEIGHTS) == files.get("digest", WEIGHTS) == before
    assert "has no path of its own inside a zip" in files.error("file", WEIGHTS)
    assert "no file 'none'" in files.error("read", "none")


def test_large_files_are_hashed_in_threads(files, tiny_bundle, tmp_path):
    path = shutil.copytree(tiny_bundle, tmp_path / "b")
    tree = json.loads((path / "manifest.json").read_text())
    for i in range(12):
        data = random.Random(i).randbytes(300_000 + 70_001 * i)
        (path / f"assets/{i}").write_bytes(data)
        tree["files"][f"assets/{i}"] = hashlib.sha256(data).hexdigest()
    rewrite_manifest(path, json.dumps(tree).encode())
    zipped = tmp_path / "b.mmedge"
    zipped.write_bytes(pack(entries_of(path)))
    for each in (path, zipped):
        assert files.get("check", each) == ["checked"]
    altered = bytearray((path / "assets/7").read_bytes())
    altered[400_000] ^= 4
    (path / "assets/7").write_bytes(altered)
    zipped.write_bytes(pack(entries_of(path)))
    for each in (path, zipped):
        assert "assets/7 is altered: expected SHA-256" in files.error("check", each)


def _without_digest(version: object):
    def change(path: Path) -> None:
        tree = json.loads((path / "manifest.json").read_text())
        tree["schema_version"] = version
        (path / "manifest.json").write_text(json.dumps(tree))
        (path / "manifest.sha256").unlink()

    return on_directory(change)


@pytest.mark.parametrize("version", [-1, 0, 2, 3, 4, 5, 6, 7, 1 << 40, "6", None, 6.0, True])
def test_a_manifest_without_its_digest(version, files, tiny_bundle, tmp_path):
    path = _without_digest(version)(tiny_bundle, tmp_path)
    message = ""
    with contextlib.suppress(BundleError):  # of its fields
        try:
            read_manifest(path)
        except BundleError as error:
            message = str(error)
            raise
    is_refused = "no manifest.sha256" in message
    taken, answers = files.ask("check", path)
    assert taken != is_refused, answers
    if is_refused:
        assert answers[0] == message


DIGEST_CHANGES = {
    "upper case": lambda text: text.upper(),
    "no line end": lambda text: text.rstrip("\n"),
    "one space": lambda text: text.replace("  ", " "),
    "long": lambda text: text + "#" * 5000,
    "empty": lambda text: "",
}


@pytest.mark.parametrize("name", DIGEST_CHANGES)
def test_another_digest_of_the_manifest(name, files, tiny_bundle, tmp_path):
    path = shutil.copytree(tiny_bundle, tmp_path / "b")
    (path / "manifest.sha256").write_text(
        DIGEST_CHANGES[name]((path / "manifest.sha256").read_text())
    )
    with pytest.raises(BundleError) as caught:
        read_manifest(path)
    assert files.error("check", path) == str(caught.value)


def test_a_large_manifest(files, tiny_bundle, tmp_path):
    path = on_text(lambda text: text + " " * (1 << 20))(tiny_bundle, tmp_path)
    assert "expected at most 1048576" in files.error("check", path)


def test_a_manifest_that_lists_itself(files, tiny_bundle, tmp_path):
    path = shutil.copytree(tiny_bundle, tmp_path / "b")
    tree = json.loads((path / "manifest.json").read_text())
    tree["files"]["manifest.json"] = "0" * 64
    rewrite_manifest(path, json.dumps(tree).encode())
    assert "missing file manifest.json" in files.error("check", path)


def test_fuzz(files, tiny_zip, tiny_bundle, tmp_path):
    (tmp_path / "other.mmedge").write_bytes(pack(entries_of(tiny_bundle)))
    seeds = [path.read_bytes() for path in (tiny_zip, tmp_path / "other.mmedge")]
    counts = fuzz(files.program, "zip", seeds, tmp_path / "scratch", count=500)
    assert counts["taken"] > 10
