"""The assistant: answers on a simulated clock, devices by stand-ins, the page in a browser."""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
import subprocess
import sys
import threading
import types
import wave
from contextlib import contextmanager
from pathlib import Path

import assistant as example
import numpy as np
import pytest
from assistant_parts import answers, networks, sensors, web
from assistant_parts.answers import Assistant
from assistant_parts.networks import Networks
from browsers import Browser, chromium
from PIL import Image
from shared import zoo_bundle

from mmedge import ExportError, InputError
from mmedge.stream import SimulatedClock

EXAMPLE = Path(example.__file__)
EVERY = ("vqa-attention", "hear", "draw", "label-translate", "speak")


def linked(factory, names):
    folder = factory.mktemp("bundles")
    for name in names:
        (folder / f"{name}.mmedge").symlink_to(zoo_bundle(factory, name))
    return folder


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    """Networks of which only that for questions is there."""
    with Networks(linked(tmp_path_factory, EVERY[:1])) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return linked(tmp_path_factory, EVERY)


@pytest.fixture(scope="module")
def everything(bundles):
    with Networks(bundles) as loaded:
        yield loaded


@contextmanager
def simulated(loaded, costs=None, *, speaks=False):
    """An assistant whose stages take 1 ms each, but those of ``costs``, and its clock."""
    stages = [stage.name for stage in loaded.vqa.bundle.manifest.stages]
    clock = SimulatedClock(costs=dict.fromkeys(stages, 0.001) | (costs or {}))
    with Assistant(loaded, clock=clock, speaks=speaks) as assistant:
        yield assistant, clock


def question(number):
    row, folder = example.sample("vqa", number)
    picture = sensors.read_picture((folder / row["image"]).read_bytes())
    return picture, row["question"], row["answer"]


def wav(samples, *, channels=1, width=2, rate=sensors.RATE):
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(samples)
    return file.getvalue()


def png(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


# Questions


def test_shipped_questions_are_answered_each_about_its_own_picture(asking):
    with simulated(asking) as (assistant, _):
        samples = [question(number) for number in range(12)]
        found = [assistant.reply(words, picture) for picture, words, _ in samples]
    assert [one.text for one in found] == [answer for _, _, answer in samples]
    assert all(one.in_time for one in found)


def test_an_answer_says_what_was_kept_and_what_was_encoded(asking):
    with simulated(asking) as (assistant, _):
        first, words, _ = question(3)
        other, _, _ = question(5)
        stages = [assistant.reply(words, one).facts[:2] for one in (first, other, other)]
        asked_anew = assistant.reply("what shape is in the image?", other).facts[:2]
    kinds = [[fact.partition(",")[0] for fact in facts] for facts in (*stages, asked_anew)]
    assert kinds == [
        ["picture encoded", "question encoded"],
        ["picture encoded", "question kept from before"],
        ["picture kept from before", "question kept from before"],
        ["picture kept from before", "question encoded"],
    ]


def test_a_late_answer_says_so(asking):
    fusion = [s.name for s in asking.vqa.bundle.manifest.stages if s.modality is None]
    picture, words, answer = question(3)
    with simulated(asking, dict.fromkeys(fusion, 0.08)) as (assistant, _):
        late = assistant.reply(words, picture)
    assert late.text == answer
    assert late.in_time is False
    assert "frame to answer 81.0 of 50 ms: deadline missed" in late.facts
    assert late.ms == pytest.approx(81)
    with simulated(asking, dict.fromkeys(fusion, 60.0)) as (assistant, _):
        never = assistant.reply(words, picture)
    assert never.text.startswith("no answer within 5 s")
    assert never.in_time is False


def test_a_camera_that_stands_still_is_encoded_once_and_answered_at_its_rate(asking):
    picture, words, _ = question(3)
    with simulated(asking) as (assistant, clock):
        assistant.reply(words, picture)
        said = assistant.watch(picture, 2.0, clock.advance_to)
    assert said.startswith("60 frames, 60 answers")
    assert "0 later than 50 ms, 0 repeated" in said
    assert said.endswith("encoded 0 times")


def test_a_frame_from_before_is_not_taken_for_the_picture_that_is_asked_about(asking):
    (brown, words, right), (gray, _, _) = question(3), question(5)
    with simulated(asking, {"image": 0.02}) as (assistant, _):
        assistant.see(gray)  # it is being encoded when the question comes
        assert assistant.reply(words, brown).text == right


def test_an_answer_to_the_question_before_is_not_taken_for_one_to_this(asking):
    picture, words, color = question(3)
    with simulated(asking, {"text": 0.06}) as (assistant, _):  # frames go on meanwhile
        assert assistant.reply(words, picture).text == color
        found = assistant.reply("what shape is in the image?", picture)
    assert found.text == "rectangle"
    assert found.ms > 60


def test_words_that_the_network_does_not_know_are_named(asking):
    with simulated(asking) as (assistant, _):
        picture, words, _ = question(3)
        odd = assistant.reply("Who painted the triangle?", picture)
        plain = assistant.reply(words, picture)
    assert odd.facts[0] == "words that it does not know: who, painted"
    assert not any("does not know" in fact for fact in plain.facts)


def test_a_request_whose_network_is_missing_is_left_out_and_said(
    asking, monkeypatch, tmp_path, capsys
):
    monkeypatch.setitem(sys.modules, "mmedge_export", None)
    with simulated(asking) as (assistant, clock):
        found = example.demonstrate(assistant, tmp_path, clock.advance_to)
    assert [one.text for one in found] == ["brown", "gray"]
    out = capsys.readouterr().out
    for name, count in (("hear", 2), ("draw", 1), ("label-translate", 3)):
        assert out.count(f"Run mmedge export zoo:{name} -o") == count
    assert out.count("left out: ") == 6


# Files and devices


@pytest.mark.parametrize(("width", "height"), [(64, 64), (192, 32)])
@pytest.mark.parametrize("size", [(64, 64), (100, 300), (1920, 1080), (1, 1)])
def test_a_picture_is_cut_to_its_middle_and_scaled(size, width, height):
    columns, rows = size
    picture = np.zeros((rows, columns, 3), np.uint8)
    picture[:, columns // 2 :] = 255
    found = sensors.fit(picture, width, height)
    assert found.shape == (1, height, width, 3)
    assert found.dtype == np.uint8
    if columns > 1:
        assert found[0, :, : width // 2 - 2].max() == 0
        assert found[0, :, width // 2 + 2 :].min() == 255


def test_files_of_other_kinds_are_refused_with_the_fix():
    with pytest.raises(InputError, match="expected a picture as PNG or JPEG"):
        sensors.read_picture(b"GIF89a")
    with pytest.raises(InputError, match="expected at most 20,000,000; scale it down"):
        sensors.read_picture(png(np.zeros((5000, 5000, 3), np.uint8)))
    with pytest.raises(InputError, match="expected a WAV file of PCM"):
        sensors.read_voice(b"RIFF")
    with pytest.raises(InputError, match=r"got \(2, 16, 44100\); convert it, .*ffmpeg"):
        sensors.read_voice(wav(b"\0" * 8, channels=2, rate=44_100))
    voice = sensors.read_voice(wav(np.array([0, 16384, -32768], "<i2").tobytes()))
    np.testing.assert_array_equal(voice, np.array([[0.0, 0.5, -1.0]], np.float32))


def test_a_camera_s_frames_are_asked_about_live(asking, monkeypatch, capsys, tmp_path):
    picture, words, answer = question(3)
    released = threading.Event()

    class VideoCapture:
        def __init__(self, index):
            assert index == 2
            self.shown = 0

        def isOpened(self):  # noqa: N802 - OpenCV's name
            return True

        def set(self, *_):
            pass

        def read(self):
            released.wait(0.01)
            self.shown += 1
            frame = picture[:, :, ::-1].copy()  # BGR
            frame[0, 0, 0] = self.shown % 256  # a camera's noise
            return True, frame

        def release(self):
            released.set()

    monkeypatch.setitem(
        sys.modules, "cv2", types.SimpleNamespace(VideoCapture=VideoCapture, CAP_PROP_FPS=5)
    )
    lines = iter([words])

    def typed(_):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", typed)
    with Assistant(asking, still=False, speaks=False) as assistant:
        example.talk(assistant, tmp_path, camera=2, microphone=False)
    assert released.is_set()
    assert f"\n  {answer}  (" in capsys.readouterr().out


def test_a_microphone_s_sound_is_what_is_asked(monkeypatch):
    calls = []

    def rec(frames, **options):
        calls.append((frames, options))
        return np.full((frames, 1), 0.25, np.float32)

    library = types.SimpleNamespace(rec=rec, wait=lambda: calls.append("waited"))
    monkeypatch.setitem(sys.modules, "sounddevice", library)
    voice = sensors.record(0.5)
    assert voice.shape == (1, 8000)
    assert voice.dtype == np.float32
    options = {"samplerate": 16_000, "channels": 1, "dtype": "float32"}
    assert calls == [(8000, options), "waited"]


def test_what_is_not_installed_is_named(monkeypatch, tmp_path):
    for name in ("cv2", "sounddevice", "mmedge_export"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit, match="pip install opencv-python-headless"):
        sensors.Camera(0, print)
    with pytest.raises(SystemExit, match="pip install sounddevice"):
        sensors.record(1.0)
    with pytest.raises(ExportError, match=r"mmedge export zoo:draw -o .*draw\.mmedge"):
        networks.bundle("draw", tmp_path)


# The page


@pytest.fixture
def serve():
    """Start a server for an assistant; its port."""
    servers = []

    def start(assistant):
        server = web.make_server(assistant)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        servers.append((server, thread))
        return server.server_port

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def fetch(port, path="/", body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    method = "GET" if body is None else "POST"
    connection.request(method, path, body, {name.title(): one for name, one in headers.items()})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def post(port, **request):
    response, content = fetch(port, "/requests", json.dumps(request))
    return response.status, json.loads(content)


def test_the_page_is_for_this_machine_alone(asking, serve):
    with simulated(asking) as (assistant, _):
        server = web.make_server(assistant)
        assert server.server_address[0] == "127.0.0.1"
        server.server_close()
        port = serve(assistant)
        for host in (f"localhost:{port}", f"127.0.0.1:{port}"):
            assert fetch(port, host=host)[0].status == 200
            assert fetch(port, host=host, origin=f"http://{host}")[0].status == 200
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1:1", ""):
            assert fetch(port, host=host)[0].status == 403
            assert fetch(port, "/requests", "{}", host=host)[0].status == 403
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
            assert fetch(port, "/requests", "{}", origin=origin)[0].status == 403


def test_what_is_no_request_is_refused(asking, serve):
    picture, words, answer = question(3)
    upload = "data:image/png;base64," + base64.b64encode(png(picture)).decode()
    with simulated(asking) as (assistant, _):
        port = serve(assistant)
        for body in ("[", "[]", "{}", '{"picture": 1, "text": "a"}', '{"picture": "vqa/03.png"}'):
            assert fetch(port, "/requests", body)[0].status == 400
        for name in ("../samples.json", "vqa/samples.json", "/etc/passwd", "data:,x"):
            status, found = post(port, picture=name, text=words)
            assert (status, found["error"]) == (400, f"{name}: no shipped file and no upload")
        status, found = post(port, picture=upload[:-40], text=words)
        assert status == 400
        status, found = post(port, picture=upload, text="")
        assert status == 400
        assert "no tokens" in found["error"]
        for path in ("/samples/../samples.json", "/samples/vqa/03.wav", "/x", "/requests"):
            assert fetch(port, path)[0].status == 404
        assert fetch(port, "/x", "{}")[0].status == 404
        for size in ("99999999", "-1", "x"):
            response, _ = fetch(port, "/requests", b"", **{"content-length": size})
            assert response.status == 413
        status, found = post(port, picture=upload, text=words)  # it still answers
        assert (status, found["text"]) == (200, answer)


def test_the_page_holds_everything_that_it_shows(asking, serve):
    with simulated(asking) as (assistant, _):
        response, page = fetch(serve(assistant))
    text = page.decode()
    for word in ("http:", "https:", '"//', "@import", "innerHTML", "eval(", " onclick"):
        assert word not in text, word
    assert len(re.findall("<script", text)) == len(re.findall("<style", text)) == 1
    policy = response.getheader("Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 2


class Page(Browser):
    """The assistant's page."""

    def open(self, port, size=(1280, 900)):
        self.resize(size)
        self.driver.get(f"http://127.0.0.1:{port}/")
        self.wait("document.querySelectorAll('[aria-pressed=true]').length")

    def wait(self, condition, seconds=20):
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.driver, seconds, 0.05).until(lambda _: self.js(f"return {condition}"))

    def ask(self, text=None, form="#typed"):
        """What the page shows in answer to a request."""
        before = self.js("return document.querySelectorAll('article').length")
        if text is not None:
            self.js("document.getElementById('text').value = arguments[0]", text)
        self.click(f"{form} button")
        self.wait(f"document.querySelectorAll('article').length > {before}")
        return self.js(
            """const one = document.querySelector('article'), answer = one.querySelector('.answer');
            return {answer: answer && answer.firstChild.data, text: one.innerText,
              images: [...one.querySelectorAll('img')].map(i => [i.src, i.naturalWidth])};"""
        )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with chromium(tmp_path_factory) as driver:
        yield Page(driver, tmp_path_factory.mktemp("page"))


def test_a_question_is_asked_in_a_browser(asking, serve, page, tmp_path):
    picture, words, answer = question(5)
    (tmp_path / "mine.png").write_bytes(png(picture))
    with Assistant(asking, speaks=False) as assistant:
        page.open(serve(assistant))
        shown = page.ask("what color is the shape?")
        assert shown["answer"].strip() == question(3)[2]
        assert "picture encoded" in shown["text"]
        assert "of 50 ms" in shown["text"]
        page.driver.find_element("id", "upload").send_keys(str(tmp_path / "mine.png"))
        page.wait("document.getElementById('view').src.startsWith('data:')")
        assert page.ask(words)["answer"].strip() == answer
        shown = page.ask("<img src=x onerror=alert(1)>")  # text of a user stays text
        assert "<img src=x" in shown["text"]
        page.resize((360, 740))
        assert page.js("return document.documentElement.scrollWidth") <= 360
        assert page.complaints() == []


# All networks


@pytest.mark.further_class
def test_the_demonstration_answers_as_the_samples_say(everything, tmp_path, capsys):
    with simulated(everything, speaks=True) as (assistant, clock):
        found = example.demonstrate(assistant, tmp_path, clock.advance_to)
    assert [(one.request, one.text) for one in found] == [
        ("what color is the shape?", "brown"),
        ("what color is the shape?", "gray"),
        ("what color is the triangle", "green"),
        ("draw a big teal triangle at the left", "drew a big teal triangle at the left"),
        ("what shape is in the image?", "triangle"),
        ("what color is the shape?", "teal"),
        ("draw a black rectangle at the left", "drew a black rectangle at the left"),
        ("what shape is in the image?", "rectangle"),
        ("what color is the shape?", "black"),
        ("read in English", "Cuban Peso"),
        ("read in Chinese", "古巴比索"),
        ("read in German", "Kubanischer Peso"),
    ]
    out = capsys.readouterr().out
    assert 'heard "what color is the triangle", in Chinese "三角形是什么颜色"' in out
    assert 'heard "draw a black rectangle at the left"' in out
    for drawn in (found[3], found[6]):
        name = f"{found.index(drawn) + 1:02d}-{drawn.request.replace(' ', '-')}.png"
        path = tmp_path / name
        np.testing.assert_array_equal(np.asarray(Image.open(path)), drawn.picture)
        assert str(path) in out
        assert drawn.picture.std() > 5
    assert [one.sound is not None for one in found] == [True] * 9 + [False] * 3
    assert all("not spoken: the voice learned" in one.facts[1] for one in found[9:])
    voice = sensors.read_voice((tmp_path / "03-what-color-is-the-triangle.wav").read_bytes())
    np.testing.assert_allclose(voice[0], found[2].sound.clip(-1, 1), atol=1e-4)
    assert [found[n].facts[0] for n in (9, 10, 11)] == [
        "picture encoded", "picture kept from before", "picture kept from before",
    ]  # fmt: skip


@pytest.mark.further_class
def test_each_answer_is_understood_where_it_is_spoken(everything):
    picture, words, _ = question(3)
    for answer in everything.vqa.bundle.labels("answer"):
        sentence = answers.spoken_sentence(answer)
        result = everything.speak(text=sentence)
        sound = result["audio"][:, : int(result["samples"][0])]
        heard = everything.hear(audio=sound, language="<en>")["text"][0]
        assert answer in heard.split(), sentence
    with simulated(everything, speaks=True) as (assistant, _):
        said = assistant.reply(words, picture)
        long = assistant.reply("draw " + "triangle " * 7 + "circle", picture)
    assert said.facts[-1].startswith('said "there is a brown shape", 1.')
    assert np.abs(said.sound).max() > 0.05
    assert long.sound is None
    assert long.facts[-1] == "not spoken: 74 characters, and the voice takes 64"


@pytest.mark.further_class
def test_a_drawing_that_has_no_time_says_so(everything, monkeypatch):
    monkeypatch.setattr(answers, "DRAW_DEADLINE_MS", 0.0)
    with simulated(everything) as (assistant, _):
        found = assistant.reply("draw a red circle", question(3)[0])
    assert found.text == "drew nothing"
    assert found.facts[0] == "0 steps, then the deadline of 0 ms"
    assert found.picture is None
    assert found.in_time is False


@pytest.mark.further_class
def test_what_cannot_be_drawn_or_read_is_said(everything):
    label = example.picture_of("label-translate", 1)
    with simulated(everything) as (assistant, _):
        drawn = assistant.reply("draw a purple Triangle", label)
        assert drawn.text == "drew a triangle"
        assert drawn.facts[0] == "words that it does not know: purple"
        assert assistant.reply("draw elephants", label).text == "drew something"
        assert assistant.reply("DRAW", label).text == "drew a shape"
        assert assistant.reply("Read this in German.", label).text == "Kubanischer Peso"
        with pytest.raises(InputError, match="in chinese or in german or in english, got french"):
            assistant.reply("read in French", label)
        with pytest.raises(InputError, match="may be 1600 to 96000"):
            assistant.reply(np.zeros((1, 100), np.float32), label)


@pytest.mark.further_class
def test_a_drawing_and_a_recording_in_a_browser(everything, serve, page, tmp_path):
    row, folder = example.sample("vqa", 4)
    with Assistant(everything) as assistant:
        page.open(serve(assistant))
        shown = page.ask("draw a big teal triangle at the left")
        assert shown["answer"].strip() == "drew a big teal triangle at the left"
        ((source, _),) = shown["images"]
        assert source.startswith("data:image/png;base64,")
        page.click("article button")
        assert page.js("return document.getElementById('view').src") == source
        assert page.ask("what color is the shape?")["answer"].strip() == "teal"
        page.wait("[...document.images].every(one => one.naturalWidth > 0)")
        page.wait("[...document.querySelectorAll('audio')].every(one => one.duration > 0.5)")
        assert page.js("return document.querySelectorAll('audio').length") == 2
        spoken = page.ask(form="#spoken")
        assert 'heard "draw a teal circle at the left"' in spoken["text"]
        before = page.js("return document.querySelectorAll('article').length")
        page.driver.find_element("id", "wav").send_keys(str(folder / row["voice"]))
        page.wait(f"document.querySelectorAll('article').length > {before}")
        assert 'heard "what color is the triangle"' in page.text("article")
        drawn = page.screenshot(tmp_path / "page.png").reshape(-1, 3).astype(int)
        assert (np.abs(drawn - [0, 128, 128]).max(axis=1) < 40).sum() > 500  # teal is on the page
        assert page.complaints() == []


@pytest.mark.further_class
def test_the_program_runs_without_torch(bundles, tmp_path):
    code = (
        "import assistant, sys; assert assistant.main(sys.argv[1:]) == 0; "
        "print(sorted({'torch', 'onnx', 'mmedge_export'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, "--bundles", str(bundles), "--output", str(tmp_path)]
    run = subprocess.run(command, cwd=EXAMPLE.parent, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[]"
    assert run.stdout.count("\n> ") == 12
