"""The page: driven in a real browser, with the numbers of `predict_images`; what it refuses."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import keras
import numpy as np
import pytest
from conftest import MEASURED, METRICS, ROOT
from PIL import Image

from catsdogs import demo, demo_page, models
from catsdogs.data.images import decode_image
from catsdogs.demo_choices import example_pictures, find_choices, name_choices
from catsdogs.files import InputError, write_json
from catsdogs.prediction import Prediction, predict_images, predict_pictures
from catsdogs.saved_model import load_saved_model, save_model

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
HAS_GRADIO = importlib.util.find_spec("gradio") is not None


@pytest.fixture(scope="module")
def root(data_dir, tmp_path_factory):
    """A folder with `runs/`: two finished ones, one without a model, one that was stopped."""
    root = tmp_path_factory.mktemp("project")
    for seed, (name, accuracy) in enumerate((("worse", 0.5), ("better", 0.75), ("no-model", 1.0))):
        keras.utils.set_random_seed(seed)
        model = models.build_textbook_convnet(48)
        folder = root / "runs" / "tiny" / name
        validation = {**MEASURED, "accuracy": accuracy}
        write_json(folder / "metrics.json", {**METRICS, "validation": validation})
        config = {"stage": "scratch", "data_dir": str(data_dir), "smoke": False}
        write_json(folder / "config.json", config)
        if name != "no-model":
            save_model(
                model, folder / "model.keras", classes=("cat", "dog"), image_size=48, temperature=1
            )
    (root / "runs" / "tiny" / "stopped").mkdir()
    return root


@pytest.fixture(scope="module")
def saved(root):
    return load_saved_model(root / "runs" / "tiny" / "better")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A whole picture, twice as wide as high, a text that claims to be one, and half a picture."""
    folder = tmp_path_factory.mktemp("photos")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((1600, 800), Image.Resampling.BICUBIC).save(folder / "whole.png")
    (folder / "text.jpg").write_text("no picture")
    whole = (folder / "whole.png").read_bytes()
    (folder / "<b>cut.png").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="module")
def address(root, tmp_path_factory):
    """Where a server that `scripts/demo.py` started listens; its uploads must go when it ends."""
    if not HAS_GRADIO:
        pytest.skip("Gradio is missing: pip install 'catsdogs[demo]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    temporary = tmp_path_factory.mktemp("temporary")
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, ROOT / "scripts" / "demo.py", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout.readline() == (
                f"The page is at http://127.0.0.1:{port}/ (Ctrl-C stops it).\n"
            )
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()
    assert server.returncode == 130 and not list(temporary.iterdir())
    assert {path.name for path in root.iterdir()} == {"runs"}


@pytest.fixture
def page(address):
    """The page at a phone's width, which may call nobody but its server and break nothing."""
    if CHROMIUM is None:
        pytest.skip("no Chromium or Chrome found")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        requests, broken = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: broken.append(error))
        page.on("response", lambda found: broken.extend([] if found.ok else [found.url]))
        page.goto(address)
        page.wait_for_selector("[data-example]")  # the last to come
        yield page
        browser.close()
    assert requests and all(url.startswith((address, "data:", "blob:")) for url in requests)
    # Gradio asks how far an upload is; a small one has arrived by then, and nobody knows of it.
    assert [problem for problem in broken if "upload_progress" not in str(problem)] == []


def upload(page, file, card):
    """Uploads a file and waits for a card of that kind."""
    page.evaluate("document.querySelector('#answer .card').classList.add('old')")
    page.set_input_files("#photo input[type=file]", file)
    return page.wait_for_selector(f"#answer .card.{card}:not(.old)", timeout=40_000)


def test_page_answers_as_predict_does(page, saved, photos):
    card = upload(page, photos / "whole.png", "found")
    ((cat, dog),) = predict_images(saved, decode_image(photos / "whole.png", 48)[None])
    assert card.query_selector(".label").inner_text() == ("cat" if cat > dog else "dog")
    assert card.query_selector(".probability").inner_text() == f"{max(cat, dog):.1%}"
    assert "below 80%" in card.query_selector(".unsure").inner_text()
    script = "e => [e.naturalWidth, e.naturalHeight, e.clientWidth / e.clientHeight]"
    sizes = [image.evaluate(script) for image in card.query_selector_all("img")]
    assert sizes == [[720, 360, pytest.approx(2, abs=0.02)]] * 2
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_page_refuses_in_a_sentence_and_goes_on(page, saved, photos):
    for name in ("text.jpg", "<b>cut.png"):
        (expected,) = predict_pictures(saved, [str(photos / name)])
        sentence = upload(page, photos / name, "refusal").inner_text()
        kept = name.replace("<", "").replace(">", "").replace("/", "")  # by Gradio
        assert expected.error.replace(str(photos / name), kept) in sentence
    upload(page, photos / "whole.png", "found")


def test_examples_and_models_can_be_chosen(page, root):
    def probability(name):
        choice = next(c for c in find_choices(root=root / "runs") if c.path.name == name)
        file, _ = example_pictures(choice)[7]
        (row,) = predict_images(load_saved_model(choice.path), decode_image(file, 48)[None])
        return f"{max(row):.1%}"

    def shown():
        return page.wait_for_selector("#answer .card.found:not(.old) .probability").inner_text()

    assert probability("better") != probability("worse")
    page.click("[data-example='7']")
    assert shown() == probability("better")
    assert page.input_value("#more input") == "75.0%  better"
    # The same picture is put to the model that is chosen then.
    page.evaluate("document.querySelector('#answer .card').classList.add('old')")
    page.click("#more input")
    page.click("[role=option] >> nth=1")
    page.wait_for_selector("#more p:has-text('50.0% of 32 pictures')")
    assert shown() == probability("worse")


def test_no_other_file_is_served(address, root):
    for wanted in (root / "runs" / "tiny" / "better" / "config.json", "/etc/passwd", "http://a.bc"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{address}gradio_api/file={wanted}")
        assert caught.value.code == 403
        caught.value.close()


def test_server_process_connects_to_nothing(root, tmp_path):
    """Once the page is served, the very process that serves it cannot connect, even to itself."""
    code = (
        "import socket, threading, types; from catsdogs import demo\n"
        "page = types.SimpleNamespace(launch=lambda **k: None, local_url='', close=lambda **k: 0)\n"
        "demo.build_demo = lambda *a: page\n"
        "demo._look = dict\n"
        "def wait(event):\n"
        "    with socket.socket() as listening:\n"
        "        listening.bind(('127.0.0.1', 0)); listening.listen()\n"
        "        try: socket.create_connection(listening.getsockname())\n"
        "        except PermissionError as error: print(error)\n"
        "threading.Event.wait = wait\n"
        "demo.serve([], '127.0.0.1', 0)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Expected no connection from this process" in finished.stdout, finished.stderr


def test_choices_are_the_usable_runs_best_first(root, data_dir, tmp_path):
    choices = find_choices(root=root / "runs")
    assert name_choices(choices) == ["75.0%  better", "50.0%  worse"]
    assert [choice.classes for choice in choices] == [("cat", "dog")] * 2
    worse = root / "runs" / "tiny" / "worse"
    named = find_choices([str(worse / "model.keras"), str(worse.with_name("better"))])
    assert name_choices(named) == [f"worse{os.sep}model.keras", "75.0%  better"]
    files = [str(file) for file, _ in example_pictures(choices[0])]
    assert ["/cat/" in file for file in files] == [True, False] * 4
    assert example_pictures(named[0]) == []
    for wrong in ([str(tmp_path)], [str(root / "runs" / "tiny" / "no-model")]):
        with pytest.raises(InputError, match="Expected a model at"):
            find_choices(wrong)
    with pytest.raises(InputError, match="found none that has a model"):
        find_choices(root=tmp_path)


def test_without_the_extra_there_is_one_sentence(root, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'catsdogs\[demo\]'"):
        demo.build_demo(find_choices(root=root / "runs"))


def test_answer_has_the_numbers_of_predict_pictures(saved, photos):
    (expected,) = predict_pictures(saved, [str(photos / "whole.png")])
    found, picture, overlay = demo.answer(saved, photos / "whole.png")
    assert found.probabilities == expected.probabilities
    assert picture.shape == overlay.shape == (360, 720, 3) and overlay.dtype == np.uint8
    assert (picture != overlay).any()


def test_names_cannot_become_markup():
    names = [f"<i>{index}" for index in range(7)]
    picture = np.zeros((4, 4, 3), np.uint8)
    answer = Prediction("x", dict.fromkeys(names, 1 / 7), None)
    card = demo_page.render_answer(answer, picture, picture, 0.1)
    card += demo_page.render_refusal("<i>") + demo_page.render_model(names, None)
    assert "<i>" not in card and "&lt;i&gt;0" in card and "and 2 less likely" in card
    assert "unsure" not in card and "and 2 others" in card
    assert demo_page.render_examples([]) == ""
