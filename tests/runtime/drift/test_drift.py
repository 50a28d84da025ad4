"""Statistics of looks, limits at a stated rate, profiles in files, alarms."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmedge.drift import DriftProfile
from mmedge.drift.detector import Detector
from mmedge.drift.layout import Statistic, layout_of, statistics_of
from mmedge.drift.learn import LookLog, fit_profile
from mmedge.drift.measure import Measure
from mmedge.drift.model import Reduction, quantile_groups
from mmedge.drift.tails import cluster_peaks, return_level
from mmedge.errors import InputError
from mmedge.spec import Manifest, Modality

DIGEST = "a" * 64
HZ = 5.0


def manifest(*names):
    modalities = tuple(Modality(name, (name,)) for name in names)
    return Manifest("robot", modalities, (), (), (), {})


def walk(seed, seconds, width=3):
    """A vector that wanders, as sensors do: float32 [looks, 1, width]."""
    rng = np.random.default_rng(seed)
    values = np.empty((round(seconds * HZ), 1, width), np.float32)
    x = rng.standard_normal(width)
    for index in range(len(values)):
        x = 0.97 * x + 0.24 * rng.standard_normal(width)
        values[index, 0] = x
    return values


def learn(series, **options):
    """A profile of values by modality."""
    logs = {(name, "inputs"): LookLog() for name in series}
    for name, values in series.items():
        for index, value in enumerate(values):
            logs[name, "inputs"].take({name: value}, index / HZ)
    return fit_profile(manifest(*series), DIGEST, logs, **options)


def play(detector, series, start=0.0):
    """Changes and the last scores."""
    changes = []
    for index in range(len(next(iter(series.values())))):
        for name, values in series.items():
            change = detector.take(name, "inputs", {name: values[index]}, start + index / HZ)
            if change is not None:
                changes.append(change)
    return changes


@pytest.fixture(scope="module")
def profile():
    return learn({"state": walk(0, 1200)})


def picture(rng, **options):
    y, x = np.mgrid[:48, :64]
    frame = 0.5 + 0.3 * np.sin(x / rng.uniform(4, 9))[..., None] * np.cos(y / 7.0)[..., None]
    frame = np.repeat(frame, 3, 2) + options.get("noise", 0.01) * rng.standard_normal((48, 64, 3))
    return np.clip(frame * options.get("gain", 1.0) * 255, 0, 255).astype(np.uint8)[None]


@pytest.mark.parametrize(
    ("shape", "dtype", "sound", "kind"),
    [
        ((1, 64, 64, 3), np.uint8, False, "image"),
        ((1, 3, 240, 320), np.float32, False, "image"),
        ((1, 64, 64, 1), np.uint16, False, "image"),
        ((1, 533), np.int16, True, "waveform"),
        ((1, 256), np.float32, False, "scan"),
        ((1, 7), np.float64, False, "vector"),
        ((1, 50, 6), np.float32, False, "rows"),
        ((1, 100, 128), np.float32, False, "rows"),
        ((1, 16, 8, 8), np.float16, False, "rows"),
        ((7,), np.float32, False, "vector"),
    ],
)
def test_each_kind_of_tensor_has_its_statistics(shape, dtype, sound, kind):
    rng = np.random.default_rng(0)
    values = [(100 * rng.random(shape)).astype(dtype) for _ in range(3)]
    layout = layout_of("x", values, is_sound=sound)
    assert layout.kind == kind
    measure = Measure(layout)
    assert measure.fits(values[0])
    look = measure(values[1], values[0])
    assert look.shape == (len(statistics_of(layout)),)
    assert np.isfinite(look).all()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.zeros((1, 16), np.int64), "no order"),
        (np.zeros((1, 16), np.bool_), "no order"),
        (np.zeros((0, 16), np.float32), "empty"),
    ],
)
def test_what_has_no_order_is_not_watched(value, why):
    assert why in layout_of("x", [value], is_sound=False)


def test_short_sound_is_not_watched():
    values = [np.zeros((1, 40), np.float32)]
    assert "too few for a spectrum" in layout_of("x", values, is_sound=True)


def test_values_that_do_not_fit_are_refused():
    measure = Measure(layout_of("x", [picture(np.random.default_rng(0))], is_sound=False))
    for value in ("text", 3.0, np.zeros((1, 48, 64, 1), np.uint8), np.zeros(3, np.uint8)):
        assert not measure.fits(value)
    assert measure.fits(np.zeros((1, 480, 640, 3), np.uint8))  # another size of picture


def statistic(measure, look, name):
    names = [s.name for s in measure.statistics]
    return look[names.index(name)]


def test_statistics_of_pictures_see_what_changes():
    rng = np.random.default_rng(1)
    measure = Measure(layout_of("x", [picture(rng)], is_sound=False))

    def of(name, value):
        return statistic(measure, measure(value), name)

    clear, noisy = picture(np.random.default_rng(2)), picture(np.random.default_rng(2), noise=0.05)
    noise = "second difference where the picture is flattest (noise)"
    assert of(noise, noisy) > 1.6 * of(noise, clear)
    dark = picture(np.random.default_rng(2), gain=0.5)
    mean = "brightness of channel 1"
    assert of(mean, dark) == pytest.approx(0.5 * of(mean, clear), rel=0.02)
    assert of(mean, clear) == pytest.approx(clear[..., 1].mean() / 255, abs=0.02)
    flat = np.repeat(clear.mean(axis=2, keepdims=True), 64, axis=2).astype(np.uint8)
    detail = "difference of neighboring pixels"
    assert of(detail, flat) < 0.4 * of(detail, clear)
    broken = clear.copy()
    places = np.random.default_rng(3).random((48, 64)) < 0.02
    broken[0, places] = 255
    isolated = "share of isolated pixels (dead pixels)"
    assert of(isolated, clear) == 0.0
    assert of(isolated, broken) > 0.005


def test_statistics_of_sound_are_in_bands():
    t = np.arange(512) / 16_000
    tone = (0.25 * np.sin(2 * np.pi * 4000 * t))[None].astype(np.float32)
    measure = Measure(layout_of("x", [tone], is_sound=True))
    look = measure(tone)
    level = statistic(measure, look, "level (root mean square)")
    assert level == pytest.approx(0.25 / np.sqrt(2), rel=0.01)
    names = [s.name for s in measure.statistics]
    powers = [look[names.index(f"power in band {k} of 10")] for k in range(1, 11)]
    assert int(np.argmax(powers)) == 8  # 3.2 to 5.3 kHz
    whole = Measure(layout_of("x", [(tone * 32767).astype(np.int16)], is_sound=True))
    assert whole((tone * 32767).astype(np.int16))[1] == pytest.approx(level, rel=0.01)


def test_windows_are_those_of_the_detector():
    looks = np.random.default_rng(0).random((40, 4))
    reduction = Reduction(
        [
            Statistic("mean", 0.1),
            Statistic("least", 0.1, is_floor=True),
            Statistic("log", 0.1, is_log=True),
            Statistic("log of the least", 0.1, is_log=True, is_floor=True),
        ]
    )
    windows = reduction.windows(looks, 12)
    assert len(windows) == 29
    for index, window in enumerate(windows):
        part = looks[index : index + 12]
        np.testing.assert_allclose(window, reduction.window(part))
    expected = (
        part[:, 0].mean(),
        part[:, 1].min(),
        np.log(part[:, 2].mean()),
        np.log(part[:, 3].min()),
    )
    np.testing.assert_allclose(windows[-1], expected)


def test_clusters_of_peaks():
    segment = np.array([0, 5, 0, 7, 0, 0, 0, 6, 0.0])
    np.testing.assert_array_equal(cluster_peaks([segment], 1.0, 2), [7, 6])
    np.testing.assert_array_equal(cluster_peaks([segment[:5], segment[5:]], 1.0, 9), [7, 6])
    assert cluster_peaks([segment], 9.0, 2).size == 0


@pytest.mark.parametrize("tail", ["normal", "exponential", "bounded"])
def test_level_holds_the_stated_rate(tail):
    """One alarm in ten recordings, of which each level is made of one."""
    rng = np.random.default_rng(1)
    draw = {
        "normal": rng.standard_normal,
        "exponential": rng.standard_exponential,
        "bounded": rng.random,
    }[tail]
    values = draw(1_000_000)
    alarms = []
    for part in np.split(values[:150_000], 30):
        level = return_level([part], 1.0 / 50_000, 1)
        alarms.append(int((values > level).sum()))
        assert level >= part.max()
    # 20 are expected. Levels of single recordings are far apart, which the explanation says.
    assert np.median(alarms) <= 20
    assert np.mean(alarms) <= 40


def test_no_alarm_on_what_it_was_learned_of(profile):
    assert play(Detector(profile), {"state": walk(0, 1200)}) == []


def test_no_alarm_on_other_normal_data(profile):
    for seed in range(1, 4):
        assert play(Detector(profile), {"state": walk(seed, 600)}) == []


def test_alarm_begins_is_explained_and_ends(profile):
    values = walk(1, 240)
    values[600:900, 0, 1] += 20.0
    changes = play(Detector(profile), {"state": values})
    assert [change.kind for change in changes] == ["drift", "drift_update", "drift_end"]
    begin, update, end = changes
    assert 120.0 <= begin.t <= 123.0
    assert begin.score >= 1.0 > end.score
    assert update.finding.name == "element 1"
    assert update.finding.value > update.finding.high
    assert "element 1" in str(update)
    assert "calibrated" in str(update)
    assert 180.0 <= end.t <= 186.0


def test_a_relation_that_breaks_is_an_alarm():
    """Each element alone is as it was."""

    def pair(seed):
        x = walk(seed, 1200, width=2)
        x[..., 1] = 0.9 * x[..., 0] + 0.1 * x[..., 1]
        return x

    profile = learn({"state": pair(0)})
    broken = pair(1)
    broken[2000:, 0, 1] *= -1.0
    changes = play(Detector(profile), {"state": broken})
    assert changes
    assert changes[0].t >= 400.0
    assert changes[0].finding.together


def test_swapped_sensors_are_named():
    def sensors(seed):
        return {"left": walk(seed, 600), "right": walk(seed + 50, 600) + np.float32(9.0)}

    profile = learn(sensors(0))
    normal = sensors(1)
    assert play(Detector(profile), normal) == []
    changes = play(Detector(profile), {"left": normal["right"], "right": normal["left"]})
    updates = {change.modality: change for change in changes if change.kind == "drift_update"}
    assert updates["left"].resembles == ("right",)
    assert updates["right"].resembles == ("left",)
    assert "are sensors swapped?" in str(updates["left"])


def test_score_stays_while_nothing_comes_and_begins_anew_after_forget(profile):
    detector = Detector(profile)
    values = walk(1, 60)
    play(detector, {"state": values[:100]})
    score = detector.scores()["state"]
    # A gap: the window begins anew, and until it is full the score is the one from before.
    play(detector, {"state": values[100:105]}, start=500.0)
    assert detector.scores()["state"] == score
    play(detector, {"state": values[105:120]}, start=501.0)
    assert detector.scores()["state"] != score
    assert detector.forget("state") == []
    assert detector.scores() == {}
    values[150:] += 20.0
    play(detector, {"state": values[150:200]}, start=600.0)
    assert detector.forget() == ["state"]
    assert detector.modalities["state"].since is None


def test_values_that_overflow_are_looked_at_without_a_warning(profile):
    detector = Detector(profile)
    values = walk(1, 30)
    values[20:40] = np.float32(3e38)
    values[40:50] = np.inf
    values[50:60] = np.nan
    play(detector, {"state": values})
    assert np.isfinite(detector.scores()["state"])


@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(3)), seed=st.integers(0, 99), shift=st.floats(-6, 6))
def test_score_does_not_depend_on_the_order_of_elements(order, seed, shift):
    calm, other = walk(7, 100), walk(seed, 12)
    other[:, 0, 2] += np.float32(shift)
    one, two = Detector(learn({"x": calm})), Detector(learn({"x": calm[..., order]}))
    play(one, {"x": other})
    play(two, {"x": other[..., order]})
    assert one.scores()["x"] == pytest.approx(two.scores()["x"], rel=1e-3, abs=1e-3)


def test_statistics_of_pictures_do_not_depend_on_the_order_of_channels():
    order = [1, 2, 0]
    frame = picture(np.random.default_rng(5))
    frame[..., 1] //= 2
    one = Measure(layout_of("x", [frame], is_sound=False))
    two = Measure(layout_of("x", [frame[..., order]], is_sound=False))
    assert one.layout == two.layout
    names = [s.name for s in one.statistics]
    places = [
        names.index(name[:-1] + str(order.index(int(name[-1])))) if "of channel" in name else index
        for index, name in enumerate(names)
    ]
    np.testing.assert_allclose(one(frame), two(frame[..., order])[places], rtol=1e-4, atol=1e-6)


def test_memory_does_not_grow(profile):
    import tracemalloc

    detector = Detector(profile)
    values = walk(1, 400)
    play(detector, {"state": values[:200]})
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    play(detector, {"state": values[200:]}, start=40.0)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 20_000


def test_profile_is_the_same_in_a_file(profile, tmp_path):
    path = tmp_path / "drift.json"
    profile.write(path)
    again = DriftProfile.read(path)
    values = walk(3, 60)
    one, two = Detector(profile), Detector(again)
    play(one, {"state": values})
    play(two, {"state": values})
    assert one.scores() == two.scores()
    assert again.modalities == ("state",)
    assert again.false_alarm_hours == 24.0


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda p: p.update(version=9), "version"),
        (lambda p: p.update(extra=1), "unknown field"),
        (lambda p: p["references"][0]["center"].pop(), "numbers"),
        (lambda p: p["references"][0]["inverse"].pop(), "numbers"),
        (lambda p: p["references"][0].update(upper=p["references"][0]["center"]), "both sides"),
        (lambda p: p["references"][0].update(level=[0.0, 0.0]), "above what is typical"),
        (lambda p: p["references"][0]["layouts"][0].update(channels=4), "numbers"),
        (lambda p: p["references"][0]["layouts"][0].update(unit=0), "above 0"),
        (lambda p: p.update(digest="x"), "of the form"),
    ],
)
def test_profiles_that_are_damaged_are_refused(profile, tmp_path, edit, why):
    path = tmp_path / "drift.json"
    profile.write(path)
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=why):
        DriftProfile.read(path)


def test_profiles_that_are_not_there_or_of_another_bundle(profile, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        DriftProfile.read(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be written"):
        profile.write(tmp_path / "no" / "drift.json")
    with pytest.raises(InputError, match="learn it again"):
        profile.check_bundle("robot", "b" * 64)
    profile.check_bundle("robot", DIGEST)


def test_too_little_to_learn_of():
    with pytest.raises(InputError, match="are too few"):
        learn({"state": walk(0, 10)})
    with pytest.raises(InputError, match="no value of it came"):
        learn({"state": []})
    with pytest.raises(InputError, match="false_alarm_hours"):
        learn({"state": walk(0, 60)}, false_alarm_hours=0.0)


def test_constant_values_are_learned_and_a_change_is_seen():
    still = np.full((600, 1, 2), 3.0, np.float32)
    profile = learn({"x": still})
    assert play(Detector(profile), {"x": still}) == []
    moved = still.copy()
    moved[300:, 0, 0] = 3.5
    assert play(Detector(profile), {"x": moved})[0].kind == "drift"


def test_recordings_of_one_modality_are_not_joined():
    log = LookLog()
    for _ in range(3):
        log.begin()
        for index, value in enumerate(walk(0, 30)):
            log.take({"x": value}, index / HZ)
    parts = log.finish()
    assert [len(times) for times, _ in parts] == [149, 149, 149]


def test_groups_of_quantiles():
    layout = layout_of("x", [np.random.default_rng(0).random((1, 9, 2))], is_sound=False)
    groups = quantile_groups(statistics_of(layout))
    assert [len(group) for group in groups] == [7, 7]
