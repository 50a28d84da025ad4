"""Random ONNX files: each is refused with a reason, or answers as ONNX Runtime does on the file."""

from __future__ import annotations

import onnx
import onnxruntime as ort
from hypothesis import assume, given
from hypothesis import strategies as st

from mmedge_export import export
from promise.files import File, files
from promise.judge import Collector, judge
from promise.test_promise import PROMISE

CUT, WHOLE = Collector("files_cut"), Collector("files_whole")


def session_of(model: onnx.ModelProto):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # noqa: BLE001 - ONNX Runtime's errors have no base
        return None


@PROMISE
@given(file=files, split=st.booleans())
def test_a_random_file_is_refused_or_right(file: File, split, tmp_path_factory):
    session = session_of(file.model)
    assume(session is not None)
    names = [value.name for value in session.get_outputs()]

    def reference(case):
        try:
            return dict(zip(names, session.run(None, case), strict=True)), {}
        except Exception:  # noqa: BLE001
            return None

    cases = [case for case in file.cases(8) if reference(case) is not None]
    assume(cases)
    source = tmp_path_factory.mktemp("file") / "net.onnx"
    onnx.save(file.model, source)
    verdict = judge(
        lambda path: export(source, path, split=split).close(), reference, cases, backend="ort"
    )
    (CUT if split else WHOLE).take(verdict, file.traits)
