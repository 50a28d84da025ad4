"""What is read from loadgen's logs; loadgen itself is not needed."""

import json
import math
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from loadgen import log_ratio
from loadgen_runs import Trace, read_results, read_trace


def line(key, value, *, error=False):
    metadata = {"is_error": error, "is_warning": False, "file": "loadgen.cc", "line_no": 1}
    return ":::MLLOG " + json.dumps({"key": key, "value": value, "metadata": metadata})


RESULTS = [
    line("result_mean_latency_ns", 825_231),
    line("result_50.00_percentile_latency_ns", 501_773),
    line("result_90.00_percentile_latency_ns", 540_722),
    line("result_99.00_percentile_latency_ns", 4_528_176),
    line("result_99.90_percentile_latency_ns", 8_224_673),
]


def test_results_are_milliseconds_by_percentile():
    found = read_results(["", "words of another kind", *RESULTS])
    assert found == {"p50": 0.501773, "p90": 0.540722, "p99": 4.528176, "mean": 0.825231}


def test_result_that_is_missing_is_named():
    with pytest.raises(ValueError, match="no result_99.00_percentile_latency_ns"):
        read_results([*RESULTS[:3], *RESULTS[4:]])


def test_error_of_the_run_is_told():
    with pytest.raises(ValueError, match="error_runtime: Max query count"):
        read_results([*RESULTS, line("error_runtime", "Max query count reached", error=True)])


def query(number, sample, ts, latency):
    return (
        f'{{"name":"Sample","cat":"default","ph":"b","pid":9,"id":{number},"ts":{ts:.3f},'
        f'"args":{{"sample_seq":{number},"query_seq":{number},"sample_idx":{sample},'
        f'"issue_start_ns":111,"complete_ns":{latency}}}}},'
    )


#: As loadgen writes them: quotes in quotes, and queries in the order in which they ended.
TRACE = [
    '{"traceEvents":[',
    '{"name":"LogDetail","ph":"X","ts":1.0,"args":{"key":""loadgen_version""}},',
    query(1, 6, 2421.593, 611_179),
    query(0, 2, 175.193, 536_155),
    '{"name":"Sample","cat":"default","ph":"e", "pid":9,"id":0,"ts":711.348},',
    query(2, 9, 7070.603, 613_039),
    '{"name":"LastTrace"}',
]


def test_trace_gives_samples_arrivals_and_latencies_in_order():
    assert read_trace(TRACE) == Trace(
        (2, 6, 9), (0, 2_246_400, 6_895_410), (536_155, 611_179, 613_039)
    )


@pytest.mark.parametrize("lines", [[], TRACE[:2], [TRACE[2], TRACE[5]]])
def test_trace_with_queries_missing_is_refused(lines):
    with pytest.raises(ValueError, match="not all in a row"):
        read_trace(lines)


def test_ratio_is_the_geometric_mean_over_rounds_with_students_interval():
    found = log_ratio([1.0, 1.0, 1.0, 1.0], [1.1, 1.2, 1.1, 1.2])
    assert found["ratio"] == pytest.approx(math.sqrt(1.1 * 1.2))
    low, high = found["ratio_95"]
    # t(0.975, 3) = 3.182; the deviation of two values that are half the time each.
    half = 3.182 * (math.log(1.2 / 1.1) / 2 * math.sqrt(4 / 3)) / 2
    assert math.log(high / low) / 2 == pytest.approx(half, rel=0.01)
