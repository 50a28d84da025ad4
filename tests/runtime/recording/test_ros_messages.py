"""Messages of ROS become values of modalities: to the bit, or refused by name."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from ros_messages import (
    TOKENIZER,
    cloud,
    compressed,
    converter,
    image,
    imu,
    joints,
    numbers,
    scan,
    sent,
    text,
)

from mmedge.errors import InputError
from mmedge.recording.ros import TYPES, Topic, read_parameter_file, read_topics

RNG = np.random.default_rng(5)
RGB = RNG.integers(0, 256, (4, 6, 3), np.uint8)
RGBA = RNG.integers(0, 256, (4, 6, 4), np.uint8)
GREY = RNG.integers(0, 256, (4, 6), np.uint8)
DEPTH = RNG.integers(0, 60000, (4, 6), np.uint16)
METERS = RNG.random((4, 6), np.float32)


def convert(message, dtype, shape, **options):
    made = converter(message, dtype, shape, **options)
    value = made(sent(message))
    assert value.dtype == dtype
    assert value.dtype.isnative
    return value, made.notes


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("pixels", "encoding", "dtype", "shape", "expected"),
    [
        (RGB, "rgb8", "uint8", (1, 4, 6, 3), RGB[None]),
        (RGB, "rgb8", "uint8", ("b", "h", "w", 3), RGB[None]),
        (RGB, "rgb8", "uint8", (4, 6, 3), RGB),
        (RGB, "bgr8", "uint8", (1, 4, 6, 3), RGB[None, ..., ::-1]),
        (RGB, "rgb8", "uint8", (1, 3, 4, 6), RGB.transpose(2, 0, 1)[None]),
        (RGB, "bgr8", "uint8", (1, 3, 4, 6), RGB[..., ::-1].transpose(2, 0, 1)[None]),
        (RGBA, "rgba8", "uint8", (1, 4, 6, 3), RGBA[None, ..., :3]),
        (RGBA, "bgra8", "uint8", (1, 4, 6, 3), RGBA[None, ..., 2::-1]),
        (RGBA, "bgra8", "uint8", (1, 4, 6, 4), RGBA[None][..., [2, 1, 0, 3]]),
        (RGB, "8UC3", "uint8", (1, 4, 6, 3), RGB[None]),
        (GREY, "mono8", "uint8", (1, 4, 6, 1), GREY[None, ..., None]),
        (GREY, "mono8", "uint8", (1, 1, 4, 6), GREY[None, None]),
        (GREY, "8UC1", "uint8", (1, 4, 6), GREY[None]),
        (DEPTH, "16UC1", "uint16", (1, 4, 6), DEPTH[None]),
        (DEPTH, "mono16", "uint16", (1, 1, 4, 6), DEPTH[None, None]),
        (METERS, "32FC1", "float32", (1, 4, 6, 1), METERS[None, ..., None]),
    ],
)
def test_pictures_are_taken_to_the_bit(pixels, encoding, dtype, shape, expected, padding):
    value, _ = convert(image(pixels, encoding, padding=padding), dtype, shape)
    np.testing.assert_array_equal(value, expected)
    assert value.shape == expected.shape


def test_a_picture_in_the_order_of_the_network_is_a_view_of_its_message():
    message = image(RGB, "rgb8")
    value = converter(message, "uint8", (1, 4, 6, 3))(message)
    assert np.shares_memory(value, message.data)


@pytest.mark.parametrize("pixels", [DEPTH, METERS])
def test_big_endian_pixels_are_the_same_numbers(pixels):
    encoding = {"uint16": "16UC1", "float32": "32FC1"}[pixels.dtype.name]
    value, _ = convert(image(pixels, encoding, big=True), pixels.dtype.name, (1, 4, 6))
    np.testing.assert_array_equal(value[0], pixels)


def test_a_scale_makes_floats_of_whole_numbers_and_is_noted():
    value, notes = convert(image(DEPTH, "16UC1"), "float32", (1, 4, 6), scale=0.001)
    np.testing.assert_array_equal(value[0], DEPTH.astype(np.float32) * np.float32(0.001))
    assert notes == ("16UC1: uint16 times 0.001 as float32",)
    value, notes = convert(image(RGB, "bgr8"), "float32", (1, 3, 4, 6), scale=1 / 255, color="bgr")
    expected = RGB.transpose(2, 0, 1).astype(np.float32) * np.float32(1 / 255)
    np.testing.assert_array_equal(value[0], expected)


def test_what_is_changed_in_a_picture_is_noted():
    _, notes = convert(image(RGBA, "bgra8"), "uint8", (1, 4, 6, 3))
    assert notes == ("bgra8: alpha is left out, colors are put in the order rgb",)
    _, notes = convert(image(RGB, "8UC3"), "uint8", (1, 4, 6, 3))
    assert notes == ("8UC3: channels are taken as rgb",)
    _, notes = convert(image(RGB, "bgr8"), "uint8", (1, 4, 6, 3), color="bgr")
    assert notes == ()


@pytest.mark.parametrize(
    ("message", "dtype", "shape", "words"),
    [
        (image(RGB, "rgb8"), "uint8", (1, 8, 6, 3), ["6 x 4 pixels", "expected 6 x 8"]),
        (image(GREY, "mono8"), "uint8", (1, 4, 6, 3), ["mono8 with 1 channels, expected 3"]),
        (image(RGB, "rgb8"), "uint8", (1, 4, 6, 1), ["rgb8 with 3 channels, expected 1"]),
        (image(RGB, "rgb8"), "uint8", (1, 4, 6, 4), ["rgb8 with 3 channels, expected 4"]),
        (image(RGB, "rgb8"), "float32", (1, 4, 6, 3), ["rgb8 is uint8", "set scale"]),
        (image(DEPTH, "16UC1"), "uint8", (1, 4, 6), ["16UC1 is uint16"]),
        (image(GREY, "bayer_rggb8"), "uint8", (1, 4, 6), ["encoding 'bayer_rggb8'"]),
        (image(GREY, "8FC1"), "uint8", (1, 4, 6), ["encoding '8FC1'"]),
        (compressed(b"\xff\xd8nothing"), "uint8", (1, 4, 6, 3), ["cannot be decoded"]),
    ],
)
def test_a_picture_that_does_not_fit_is_refused_by_name(message, dtype, shape, words):
    made = converter(message, dtype, shape)
    with pytest.raises(InputError) as refused:
        made(sent(message))
    for word in ["modality 'm', topic /t", *words]:
        assert word in str(refused.value)


def test_a_picture_of_another_length_than_it_says_is_refused():
    message = image(RGB, "rgb8")
    made = converter(message, "uint8", ("b", "h", "w", 3))
    for change in ({"height": 5}, {"step": 17}, {"width": 7}):
        wrong = image(RGB, "rgb8")
        for name, value in change.items():
            setattr(wrong, name, value)
        with pytest.raises(InputError, match="rows of"):
            made(sent(wrong))


@given(
    pixels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3))),
    padding=st.integers(0, 9),
    swapped=st.booleans(),
    first=st.booleans(),
)
@settings(max_examples=40)
def test_any_picture_of_three_colors_comes_through(pixels, padding, swapped, first):
    shape = (1, 3, "h", "w") if first else (1, "h", "w", 3)
    message = image(pixels, "bgr8" if swapped else "rgb8", padding=padding)
    value, _ = convert(message, "uint8", shape, layout="chw" if first else "hwc")
    expected = pixels[..., ::-1] if swapped else pixels
    np.testing.assert_array_equal(value[0].transpose(1, 2, 0) if first else value[0], expected)


def encode(pixels, form):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, form, **({"lossless": True} if form == "WEBP" else {}))
    return data.getvalue()


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP"])
def test_compressed_pictures_are_decoded(form):
    value, _ = convert(compressed(encode(RGB, form)), "uint8", (1, 4, 6, 3))
    np.testing.assert_array_equal(value[0], RGB)
    if form == "PNG":
        value, notes = convert(compressed(encode(RGB, form)), "uint8", (1, 3, 4, 6), color="bgr")
        np.testing.assert_array_equal(value[0], RGB[..., ::-1].transpose(2, 0, 1))
        assert notes == ("compressed rgb: colors are put in the order bgr",)


def test_a_jpeg_is_what_pillow_makes_of_it_and_deep_pixels_are_refused():
    data = encode(GREY, "JPEG")
    value, _ = convert(compressed(data, "jpeg"), "uint8", (1, 1, 4, 6))
    np.testing.assert_array_equal(value[0, 0], np.asarray(Image.open(io.BytesIO(data))))
    with pytest.raises(InputError, match="mode I;16"):
        convert(compressed(encode(DEPTH, "PNG")), "uint8", (1, 4, 6))


POINTS = {name: RNG.random(6).astype(np.float32) for name in "xyz"}
EXPECTED = np.stack([POINTS[name] for name in "xyz"], axis=1)


@pytest.mark.parametrize(
    "layout",
    [{}, {"height": 2}, {"height": 3, "padding": 8}, {"big": True}, {"step": 32, "padding": 3}],
)
def test_clouds_become_rows_of_points(layout):
    value, _ = convert(cloud(POINTS, **layout), "float32", (1, "n", 3))
    np.testing.assert_array_equal(value[0], EXPECTED)
    value, _ = convert(cloud(POINTS, **layout), "float32", (1, 3, "n"))
    np.testing.assert_array_equal(value[0], EXPECTED.T)
    value, _ = convert(cloud(POINTS, **layout), "float32", (6, 2), fields=("z", "x"))
    np.testing.assert_array_equal(value, EXPECTED[:, [2, 0]])


def test_fields_of_clouds_that_float32_holds_are_cast_and_others_rounded_or_refused():
    fields = {
        **POINTS,
        "intensity": np.arange(6, dtype=np.uint16),
        "far": np.linspace(0, 1e9, 6),
        "t": np.arange(6, dtype=np.uint32),
    }
    value, notes = convert(cloud(fields), "float32", (1, "n", 4))
    np.testing.assert_array_equal(value[0, :, 3], np.arange(6))
    assert notes == ("intensity: uint16 as float32",)
    value, notes = convert(cloud(fields), "float32", (1, "n", 1), fields=("far",))
    np.testing.assert_array_equal(value[0, :, 0], fields["far"].astype(np.float32))
    assert notes == ("far: float64 is rounded to float32",)
    with pytest.raises(InputError, match="field 't' of a cloud is uint32"):
        convert(cloud(fields), "float32", (1, "n", 1), fields=("t",))
    with pytest.raises(InputError, match="without field 'ring'; it has x, y, z"):
        convert(cloud(fields), "float32", (1, "n", 1), fields=("ring",))


def test_points_that_are_not_finite_are_kept_removed_or_filled_as_asked():
    fields = {name: values.copy() for name, values in POINTS.items()}
    fields["x"][1], fields["y"][4] = np.nan, np.inf
    message = cloud(fields, height=2)
    value, notes = convert(message, "float32", (1, "n", 3))
    assert np.isnan(value).sum() == 1
    assert notes == ()
    value, notes = convert(message, "float32", (1, "n", 3), non_finite="remove")
    np.testing.assert_array_equal(value[0], EXPECTED[[0, 2, 3, 5]])
    assert notes == ("points with NaN or infinity are removed",)
    value, notes = convert(message, "float32", (1, "n", 3), non_finite=0.0)
    assert (value[0, 1, 0], value[0, 4, 1]) == (0.0, 0.0)
    assert notes == ("NaN and infinity are 0",)


def test_a_cloud_of_another_size_than_the_network_takes_is_refused():
    with pytest.raises(InputError, match=r"a cloud of 6 points is \[1, 6, 3\]; input x: float32"):
        convert(cloud(POINTS), "float32", (1, 8, 3))
    wrong = cloud(POINTS)
    wrong.row_step = 3
    with pytest.raises(InputError, match="expected rows of at least 72 bytes"):
        converter(wrong, "float32", (1, "n", 3))(sent(wrong))
    wrong = cloud(POINTS)
    wrong.fields[2].offset = 10
    with pytest.raises(InputError, match="points of 12 bytes"):
        converter(wrong, "float32", (1, "n", 3))(sent(wrong))


def test_scans():
    value, _ = convert(scan([1, 2, np.inf], [4, 5, 6]), "float32", (1, 3))
    np.testing.assert_array_equal(value, [[1, 2, np.inf]])
    options = {"fields": ("ranges", "intensities"), "non_finite": 30.0}
    value, notes = convert(scan([1, 2, np.inf], [4, 5, 6]), "float32", (1, 2, "n"), **options)
    np.testing.assert_array_equal(value, [[[1, 2, 30], [4, 5, 6]]])
    assert notes == ("NaN and infinity are 30",)
    with pytest.raises(InputError, match="3 ranges, 0 intensities"):
        convert(scan([1, 2, 3]), "float32", (1, 2, "n"), **options)
    with pytest.raises(InputError, match=r"a scan of 2 rays is \[1, 2\]"):
        convert(scan([1, 2]), "float32", (1, 3))


def test_imus():
    message = imu((0, 0, 0.6, 0.8), (1, 2, 3), (4, 5, 6))
    value, notes = convert(message, "float32", (1, 6))
    np.testing.assert_array_equal(value, [[1, 2, 3, 4, 5, 6]])
    assert notes == ("float64 is rounded to float32",)
    value, notes = convert(message, "float64", (1, 10))
    np.testing.assert_array_equal(value, [[0, 0, 0.6, 0.8, 1, 2, 3, 4, 5, 6]])
    assert notes == ()
    window = {"align": "window", "length": 50, "axis": 1}
    value, _ = convert(message, "float32", (1, 50, 3), fields=("linear_acceleration",), **window)
    np.testing.assert_array_equal(value, [[[4, 5, 6]]])
    with pytest.raises(InputError, match="measures no orientation"):
        convert(imu((0, 0, 0, 1), (1, 2, 3), (4, 5, 6), has_orientation=False), "float32", (10,))
    with pytest.raises(InputError, match="set fields to some of orientation"):
        convert(message, "float32", (1, 5))


def test_joints_come_in_the_order_of_the_network():
    message = joints(("b", "a", "grip"), (2, 1, 9), (20, 10, 90))
    value, _ = convert(message, "float64", (1, 2), joints=("a", "b"))
    np.testing.assert_array_equal(value, [[1, 2]])
    both = {"joints": ("a", "b"), "fields": ("position", "velocity")}
    value, notes = convert(message, "float32", (1, 4), **both)
    np.testing.assert_array_equal(value, [[1, 2, 10, 20]])
    assert notes == ("float64 is rounded to float32",)
    with pytest.raises(InputError, match="a JointState without elbow"):
        convert(message, "float32", (1, 2), joints=("a", "elbow"))
    with pytest.raises(InputError, match="with 0 of effort for 3"):
        convert(message, "float32", (1, 1), joints=("a",), fields=("effort",))
    with pytest.raises(InputError, match="set joints to their names"):
        convert(message, "float32", (1, 2))


@pytest.mark.parametrize("name", ["Float32", "Float64", "Int16", "Int64", "UInt8", "UInt32"])
def test_arrays_have_the_shape_of_their_layout(name):
    values = np.arange(6).astype(name.lower())
    value, _ = convert(numbers(name, values, (2, 3)), name.lower(), (1, 2, 3))
    np.testing.assert_array_equal(value[0], values.reshape(2, 3))
    value, _ = convert(numbers(name, values), name.lower(), ("b", 6))
    np.testing.assert_array_equal(value[0], values)
    value, _ = convert(numbers(name, values, (4,), offset=2), name.lower(), ("b", 4))
    np.testing.assert_array_equal(value[0], values[2:])
    with pytest.raises(InputError, match=r"layout says \[5\] from 0"):
        convert(numbers(name, values, (5,)), name.lower(), (1, 5))


def test_pcm_of_16_bits_becomes_floats():
    pcm = np.array([-32768, 0, 16384], np.int16)
    expected = np.array([[-1.0, 0.0, 0.5]], np.float32)
    value, _ = convert(numbers("Int16", pcm), "float32", (1, "n"), scale=1 / 32768)
    np.testing.assert_array_equal(value, expected)
    as_bytes = numbers("UInt8", pcm.astype("<i2").view(np.uint8))
    value, _ = convert(as_bytes, "float32", (1, "n"), scale=1 / 32768, elements="int16")
    np.testing.assert_array_equal(value, expected)
    with pytest.raises(InputError, match="an array of int16 is int16"):
        convert(numbers("Int16", pcm), "float32", (1, "n"))
    with pytest.raises(InputError, match="3 bytes are no whole int16"):
        odd = numbers("UInt8", np.zeros(3, np.uint8))
        convert(odd, "float32", (1, "n"), scale=1.0, elements="int16")


def test_texts_need_a_tokenizer():
    made = converter(text("go"), "int64", (1, 4), tokenizer=TOKENIZER)
    assert made(sent(text("go left"))) == "go left"
    with pytest.raises(InputError, match="this modality has no tokenizer"):
        converter(text("go"), "int64", (1, 4))


def test_stamps_are_those_of_headers_unless_arrivals_are_asked_for():
    message = image(GREY, "mono8", stamp=1795982184.507718584)
    by_header = converter(message, "uint8", (1, 4, 6))
    assert by_header.stamp(sent(message)) == pytest.approx(1795982184.507718584, abs=3e-7)
    assert converter(message, "uint8", (1, 4, 6), stamp="arrival").stamp(sent(message)) is None
    array = numbers("Float32", np.zeros(2, np.float32))
    assert converter(array, "float32", (1, 2)).stamp(sent(array)) is None


def test_other_types_and_modalities_are_refused_with_what_there_is():
    from mmedge.recording.ros import Converter

    manifest = __import__("ros_messages").one_input("float32", (1, 2))
    with pytest.raises(InputError, match=r"nav_msgs/msg/Path are not converted; there are .*Imu"):
        Converter(manifest, "m", Topic(topic="/t"), "nav_msgs/msg/Path")
    with pytest.raises(InputError, match="unknown modality; this bundle has m"):
        Converter(manifest, "n", Topic(topic="/t"), TYPES[0])


def test_options_are_read_nested_or_with_dots_and_wrong_ones_named():
    nested = {"m": {"topic": "/t", "depth": 5, "max_age_ms": 100, "joints": ["a", "b"]}}
    assert read_topics(nested) == {
        "m": Topic(topic="/t", depth=5, max_age_ms=100.0, joints=("a", "b"))
    }
    assert read_topics({"m.topic": "/t", "m.non_finite": 3}) == {
        "m": Topic(topic="/t", non_finite=3.0)
    }
    for options, words in (
        ({"topic": "/t", "dept": 5}, "unknown option 'dept'; did you mean depth"),
        ({"topic": "/t", "depth": 1.5}, "depth: expected a whole number, got 1.5"),
        ({"topic": "/t", "joints": "a"}, "joints: expected a list of names"),
        ({"topic": "/t", "align": "newest"}, "align: expected one of latest, hold"),
        ({"topic": "/t", "align": "hold"}, "max_age_ms must be above 0"),
        ({"topic": "/t", "tolerance_ms": 5}, "tolerance_ms is of align: exact"),
        ({"topic": "/t", "length": 5}, "of align: window"),
        ({"topic": "no topic"}, "is no name of a topic"),
        ({"type": "sensor_msgs/msg/Image"}, "expected the name of its topic"),
    ):
        with pytest.raises(InputError, match=words) as refused:
            read_topics({"m": options})
        assert str(refused.value).startswith("modalities.m: ")


def test_the_parameter_file_of_a_node_is_read(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "/**:\n  ros__parameters:\n    bundle: x\n    modalities:\n      m: {topic: /t, depth: 3}\n"
    )
    assert read_parameter_file(path) == {"m": Topic(topic="/t", depth=3)}
    for content, words in (
        ("a: [", "cannot be read as YAML"),
        ("a: {ros__parameters: {bundle: x}}", "expected one node with .*got 0"),
        ("x: {ros__parameters: {modalities: {m: {topic: 5}}}}", "topic: expected text, got 5"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=words):
            read_parameter_file(path)


#: Numbers as a header may claim them.
CLAIMS = st.one_of(st.integers(0, 9), st.sampled_from([1 << 16, 1 << 31, (1 << 32) - 1]))


def refused_or_fits(made, message, dtype):
    """Whatever a message claims, its value fits, or it is refused."""
    try:
        value = made(message)
    except InputError:
        return
    assert value.dtype == dtype
    value.tobytes()  # every element lies in memory


@given(
    claims=st.fixed_dictionaries({}, optional=dict.fromkeys(("height", "width", "step"), CLAIMS)),
    encoding=st.sampled_from(["rgb8", "bgra8", "mono16", "32FC1", "64FC4", "8UC2", "yuv422", ""]),
    data=st.binary(max_size=80),
    big=st.booleans(),
)
@settings(max_examples=60)
def test_whatever_an_image_claims_it_fits_or_is_refused(claims, encoding, data, big):
    message = image(RGB, "rgb8")
    for name, number in claims.items():
        setattr(message, name, number)
    message.encoding, message.is_bigendian = encoding, int(big)
    if "step" in claims:
        message.data = np.frombuffer(data, np.uint8)
    for dtype, shape in (("uint8", ("b", "h", "w", 3)), ("uint16", (1, "h", "w"))):
        refused_or_fits(converter(message, dtype, shape), message, dtype)


@given(
    claims=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("height", "width", "point_step", "row_step"), CLAIMS)
    ),
    field=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("offset", "count"), CLAIMS) | {"datatype": st.integers(0, 12)}
    ),
    data=st.binary(max_size=80),
)
@settings(max_examples=60)
def test_whatever_a_cloud_claims_it_fits_or_is_refused(claims, field, data):
    message = cloud(POINTS)
    for name, number in claims.items():
        setattr(message, name, number)
    for name, number in field.items():
        setattr(message.fields[1], name, number)
    if "row_step" in claims:
        message.data = np.frombuffer(data, np.uint8)
    refused_or_fits(converter(message, "float32", (1, "n", 3)), message, "float32")


@given(
    sizes=st.lists(st.one_of(CLAIMS, st.just(1 << 32)), max_size=4),
    offset=CLAIMS,
    values=st.lists(st.integers(-9, 9), max_size=9),
)
@settings(max_examples=60)
def test_whatever_an_array_claims_it_fits_or_is_refused(sizes, offset, values):
    message = numbers("Int16", np.array(values, np.int16), sizes, offset)
    refused_or_fits(converter(message, "int16", ("b", "n")), message, "int16")
