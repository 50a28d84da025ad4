"""What would run a stage of a loop once, and take that for the network, is refused by name."""

from __future__ import annotations

import pytest
from loop_bundles import Captioner, Filter

from mmedge.bundle import Bundle
from mmedge.errors import ExportError
from mmedge_export.quantize import QuantizeOptions, quantize
from mmedge_export.targets.tensorrt.engine import build_all


@pytest.mark.parametrize(
    ("network", "stage"), [(Captioner(), "step"), (Filter("fusion"), "mix")], ids=["loop", "state"]
)
def test_refused(network, stage, tmp_path):
    network.write(tmp_path / "b").close()
    words = f"stage '{stage}' of .* runs step by step"
    with pytest.raises(ExportError, match=f"tensorrt_rtx int8: {words}"):
        quantize(tmp_path / "b", options=QuantizeOptions(backend="tensorrt_rtx"))
    with (
        Bundle.open(tmp_path / "b") as bundle,
        pytest.raises(ExportError, match=f"engines: {words}"),
    ):
        build_all(bundle, backend="tensorrt_rtx", targets=["sm_89"], precisions=["fp32"])
