"""The runtime is light: no torch, no toolchain, and little beside what it stands on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from text_bundles import words, write_text_bundle

import mmedge

MODULES = sorted(
    str(path.relative_to(Path(mmedge.__file__).parent.parent).with_suffix("")).replace("/", ".")
    for path in Path(mmedge.__file__).parent.rglob("*.py")
    if path.name not in {"__init__.py", "__main__.py"}
)

BLOCK = """
import sys

class Block:
    names = {"torch", "onnx", "onnx_ir", "onnxscript", "transformers", "mmedge_export"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(f"{name} is blocked: the runtime must not need it")

sys.meta_path.insert(0, Block())
"""


def python(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports_and_a_bundle_runs_with_torch_blocked(sums):
    program = BLOCK + (
        "import importlib\n"
        "path, *modules = sys.argv[1:]\n"
        "for module in modules:\n"
        "    importlib.import_module(module)\n"
        "import mmedge\n"
        "from mmedge.execution.verify import verify\n"
        "with mmedge.load(path) as pipe:\n"
        "    print(verify(pipe).ok)\n"
    )
    assert python(program, str(sums), *MODULES).strip() == "True"


#: What extras bring.
EXTRAS = (
    "cryptography", "cuda", "mcap", "openvino", "opentelemetry", "prometheus_client", "pynvml",
    "rosbags", "tensorrt", "tokenizers",
)  # fmt: skip


def test_command_line_runs_without_extras():
    program = (
        f"import sys\nfor name in {EXTRAS!r}:\n    sys.modules[name] = None\n"
        "from mmedge.cli.app import run\n"
        "sys.exit(run(['env']))\n"
    )
    assert "onnxruntime" in python(program)


#: None in sys.modules is how Python itself marks a module that cannot be imported.
WITHOUT_TOKENIZERS = "import sys; sys.modules['tokenizers'] = None\n"


def test_a_bundle_without_text_runs_without_tokenizers(pair):
    program = WITHOUT_TOKENIZERS + (
        "import warnings, mmedge\n"
        "from mmedge.execution.verify import verify\n"
        "warnings.simplefilter('error')\n"
        "with mmedge.load(sys.argv[1]) as pipe:\n"
        "    print(verify(pipe).ok)\n"
    )
    assert python(program, str(pair)).strip() == "True"


def test_without_tokenizers_ids_are_taken_and_a_text_says_what_to_install(tmp_path):
    path = write_text_bundle(tmp_path / "text.mmedge", words().to_str().encode())
    program = WITHOUT_TOKENIZERS + (
        "import warnings, mmedge\n"
        "from mmedge.execution.verify import verify\n"
        "with warnings.catch_warnings(record=True) as remarks:\n"
        "    warnings.simplefilter('always')\n"
        "    pipe = mmedge.load(sys.argv[1])\n"
        "print(*(remark.message for remark in remarks), sep='\\n')\n"
        "print(verify(pipe).ok)\n"
        "try:\n"
        "    pipe(text='go left')\n"
        "except mmedge.MMEdgeError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    warning, verified, error = python(program, str(path)).splitlines()
    fix = "text needs the tokenizers library: pip install 'mmedge[text]'"
    assert f"text: token ids are taken, texts are refused: {fix}" in warning
    assert verified == "True"
    assert error.startswith(f"BackendError the text 'go left' cannot be read: {fix}")


def test_the_command_line_says_so_in_one_line(tmp_path):
    path = write_text_bundle(tmp_path / "text.mmedge", words().to_str().encode())
    program = WITHOUT_TOKENIZERS + "from mmedge.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "verify", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "tokenizers" in line)
    assert line.startswith(f"warning: {path}: text: token ids are taken")


@pytest.mark.parametrize("module", ["onnxruntime", "typer", "rich", "PIL", "tokenizers"])
def test_import_mmedge_leaves_out_what_only_some_calls_need(module):
    assert python(f"import sys, mmedge; print({module!r} in sys.modules)").strip() == "False"


def test_a_load_and_a_call_leave_out_what_only_streams_need(sums):
    program = (
        "import sys, numpy as np, mmedge\n"
        "with mmedge.load(sys.argv[1]) as pipe:\n"
        "    pipe.run(pipe.bundle.samples()[0].inputs)\n"
        "unwanted = ('sanity', 'align', 'clock', 'stream')\n"
        "print([name for name in unwanted if f'mmedge.{name}' in sys.modules])"
    )
    assert python(program, str(sums)).strip() == "[]"


def test_public_names_are_sorted_and_there():
    assert mmedge.__all__ == sorted(mmedge.__all__)
    assert all(hasattr(mmedge, name) for name in mmedge.__all__)
