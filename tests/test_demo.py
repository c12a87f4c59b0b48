"""The page: the models it offers, its answers in a browser, and what its server keeps to itself."""

import concurrent.futures
import importlib.util
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import uuid

import keras
import numpy as np
import pytest
from conftest import MEASURED, METRICS, ROOT
from pictures import encode, noise_picture, write_files

from catsdogs.data.images import decode_image
from catsdogs.errors import InputError
from catsdogs.files import write_json
from catsdogs.inference.demo import answer, build_demo, copy_examples, find_choices
from catsdogs.inference.predict import predict_images, predict_pictures
from catsdogs.models.convnets import build_textbook_convnet
from catsdogs.models.model_file import load_saved_model, save_model

SIZE = 48
MARKUP = "<i>cat"


def make_run(run_dir, data_dir, accuracy, *, low=None, smoke=False, classes=("cat", "dog"), **more):
    """A finished run with an untrained model."""
    interval = [low or accuracy - 0.1, 1.0]
    validation = {**MEASURED, "accuracy": accuracy, "accuracy_interval95": interval}
    settings = {"stage": "scratch", "data_dir": str(data_dir), "smoke": smoke}
    write_json(run_dir / "config.json", settings)
    changes = {"validation": validation, "config": {"seed": 0, "smoke": smoke}, **more}
    write_json(run_dir / "metrics.json", METRICS | changes)
    keras.utils.set_random_seed(int(100 * accuracy))
    model = build_textbook_convnet(SIZE)
    save_model(model, run_dir / "model.keras", classes=classes, image_size=SIZE, temperature=1.0)


@pytest.fixture(scope="module")
def root(data_dir, tmp_path_factory):
    """A folder with `runs/`: two finished ones, one without a model, one interrupted."""
    root = tmp_path_factory.mktemp("project")
    runs = root / "runs" / "tiny"
    make_run(runs / "better", data_dir, 0.75)
    make_run(runs / "worse", data_dir, 0.5, classes=(MARKUP, "dog"))
    make_run(runs / "no-model", data_dir, 0.9)
    (runs / "no-model" / "model.keras").unlink()
    (runs / "interrupted").mkdir()
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A good picture, twice as wide as high, and two files that cannot be read."""
    good = encode(noise_picture(0, (1600, 800)))
    files = {"good.png": good, "text.jpg": b"no picture", "<b>cut.png": good[: len(good) // 2]}
    return write_files(tmp_path_factory.mktemp("photos"), files)


def test_usable_runs_are_offered(root):
    choices = find_choices(root=root / "runs")
    assert [choice.name for choice in choices] == ["75.0%  tiny/better", "50.0%  tiny/worse"]
    worse = root / "runs" / "tiny" / "worse"
    named = find_choices([str(worse / "model.keras"), str(worse.with_name("better"))])
    assert [choice.name for choice in named] == ["worse/model.keras", "75.0%  tiny/better"]
    with pytest.raises(InputError, match="Expected a model at"):
        find_choices([str(worse.with_name("no-model"))])


def test_the_best_run_is_on_many_photographs(data_dir, tmp_path):
    make_run(tmp_path / "tiny" / "a-sketches", data_dir, 1.0, low=0.99, sketches=True)
    make_run(tmp_path / "tiny" / "b-smoke", data_dir, 1.0, low=0.98, smoke=True)
    make_run(tmp_path / "tiny" / "c-few", data_dir, 1.0, low=0.6)
    make_run(tmp_path / "tiny" / "d-many", data_dir, 0.95, low=0.93)
    found = [choice.path.name for choice in find_choices(root=tmp_path)]
    assert found == ["d-many", "c-few", "b-smoke", "a-sketches"]


def test_examples_are_copies_of_validation_pictures_of_every_class(root, data_dir, tmp_path):
    choice, _ = find_choices(root=root / "runs")
    labels = {path.read_bytes(): path.parent.name for path in (data_dir / "validation").glob("*/*")}
    copies = [pathlib.Path(path) for path in copy_examples(choice, tmp_path / "examples")]
    assert [labels[path.read_bytes()] for path in copies] == ["cat", "dog"] * 4
    assert {path.parent for path in copies} == {tmp_path / "examples"}
    # A model alone does not say what it was trained on.
    (alone,) = find_choices([shutil.copy(choice.path / "model.keras", tmp_path)])
    assert copy_examples(alone, tmp_path / "none") == []


def test_an_answer_is_the_prediction_and_a_heatmap(root, photos):
    saved = load_saved_model(root / "runs" / "tiny" / "better")
    (expected,) = predict_pictures(saved, [str(photos / "good.png")])
    prediction, heatmap = answer(saved, photos / "good.png")
    assert prediction == expected
    assert heatmap.shape == (360, 720, 3) and heatmap.dtype == np.uint8


def test_without_the_extra_there_is_one_line(root, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install gradio"):
        build_demo(find_choices(root=root / "runs"), tmp_path)


@pytest.fixture(scope="module")
def address(root, tmp_path_factory):
    """Where `scripts/demo.py` serves the page; at the end nothing of it is left on the disk."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("the page needs Gradio: pip install gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    (folder / "temporary").mkdir()
    command = [sys.executable, ROOT / "scripts" / "demo.py", "--port", str(port)]
    environment = {**os.environ, "TMPDIR": str(folder / "temporary")}
    with (
        (folder / "stderr.txt").open("w") as stderr,
        subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as server,
    ):
        try:
            found = f"http://127.0.0.1:{port}/"
            assert server.stdout.readline() == f"The page is at {found} (Ctrl-C stops it).\n"
            yield found
        finally:
            server.terminate()
    assert server.returncode == 130 and not list((folder / "temporary").iterdir())
    assert {path.name for path in root.iterdir()} == {"runs"}
    log = (folder / "stderr.txt").read_text()
    # Gradio logs the requests that it refuses.
    assert log.count("Traceback") == log.count("InvalidPathError: "), log


@pytest.fixture
def page(address):
    """The page at a phone's width; it calls nobody but its server, and breaks nothing."""
    with playwright().sync_playwright() as started, open_browser(started) as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        requests, broken = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: broken.append(error))
        page.on("response", lambda found: broken.extend([] if found.ok else [found.url]))
        page.goto(address)
        page.wait_for_selector("#examples img >> nth=7")  # the last to come
        yield page
    assert requests and all(url.startswith((address, "data:", "blob:")) for url in requests)
    # Gradio asks how far an upload is; a small one has arrived by then, and nobody knows of it.
    assert [problem for problem in broken if "upload_progress" not in str(problem)] == []


def playwright():
    return pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")


def open_browser(started):
    """Playwright's own browser if it is installed, else the system's."""
    names = ("chromium", "chromium-browser", "google-chrome")
    paths = [started.chromium.executable_path, *filter(None, map(shutil.which, names))]
    path = next(filter(os.path.exists, paths), None)
    if path is None:
        pytest.skip("no browser to open the page in: playwright install chromium")
    sandbox = [] if os.getuid() else ["--no-sandbox"]  # root cannot have one
    return started.chromium.launch(executable_path=path, args=sandbox)


def upload(page, path):
    """Chooses a photo; returns the card with the answer."""
    page.evaluate("document.querySelector('#answer .card').classList.add('old')")
    page.set_input_files("#photo input[type=file]", path)
    return new_card(page)


def new_card(page):
    return page.wait_for_selector("#answer .card:not(.old):not(.empty)", timeout=40_000)


@pytest.mark.slow
def test_the_page_answers_as_predict_does(page, root, photos):
    assert page.wait_for_selector("#answer .card.empty")
    card = upload(page, photos / "good.png")
    saved = load_saved_model(root / "runs" / "tiny" / "better")
    ((cat, dog),) = predict_images(saved, decode_image(photos / "good.png", SIZE)[None])
    label = "cat" if cat > dog else "dog"
    assert card.query_selector(".verdict").inner_text() == f"{label} {max(cat, dog):.1%}"
    assert "80%" in card.query_selector(".unsure").inner_text()
    bars = [bar.inner_text() for bar in card.query_selector_all(".bars dd")]
    assert bars == [f"{max(cat, dog):.1%}", f"{min(cat, dog):.1%}"]
    heatmap = page.wait_for_selector("#answer img")
    assert heatmap.evaluate("e => [e.naturalWidth, e.naturalHeight]") == [720, 360]
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.slow
def test_the_page_says_what_is_wrong_with_a_file(page, root, photos):
    saved = load_saved_model(root / "runs" / "tiny" / "better")
    for name in ("text.jpg", "<b>cut.png"):
        card = upload(page, photos / name)
        (expected,) = predict_pictures(saved, [str(photos / name)])
        kept = name.replace("<", "").replace(">", "").replace("/", "")  # by Gradio
        assert expected.error.replace(str(photos / name), kept) in card.inner_text()
        assert not page.query_selector("#answer img")
    assert upload(page, photos / "good.png").query_selector(".verdict")


@pytest.mark.slow
def test_examples_and_models_can_be_chosen(page, root, tmp_path):
    def predicted(index):
        choice = find_choices(root=root / "runs")[index]
        file = copy_examples(choice, tmp_path / str(index))[7]
        (row,) = predict_images(load_saved_model(choice.path), decode_image(file, SIZE)[None])
        return f"{choice.classes[row.argmax()]} {row.max():.1%}"

    page.evaluate("document.querySelector('#answer .card').classList.add('old')")
    page.click("#examples .gallery-item >> nth=7")
    assert new_card(page).query_selector(".verdict").inner_text() == predicted(0)
    assert page.input_value("#more input") == "75.0%  tiny/better"
    # The same picture is given to the model that is chosen then, whose class name is no markup.
    page.evaluate("document.querySelector('#answer .card').classList.add('old')")
    page.click("#more input")
    page.click("[role=option] >> nth=1")
    card = new_card(page)
    assert card.query_selector(".verdict").inner_text() == predicted(1)
    assert MARKUP in card.inner_text() and not card.query_selector("i")
    assert MARKUP in page.wait_for_selector("#more p:has-text('50.0% on 32')").inner_text()


def call(address, path, content=None, kind="application/json", **headers):
    """Sends a request; returns the status and the body."""
    if isinstance(content, dict):
        content = json.dumps(content).encode()
    if content is not None:
        headers["Content-Type"] = kind
    request = urllib.request.Request(address + path, content, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def send(address, content, name="photo.png"):
    """Uploads a file as a browser does; returns the status and where the server put it."""
    head = f'Content-Disposition: form-data; name="files"; filename="{name}"'
    body = b"--x\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n--x--\r\n"
    status, found = call(address, "gradio_api/upload", body, "multipart/form-data; boundary=x")
    return status, json.loads(found)[0] if status == 200 else None


def ask(address, path):
    """Asks as the page does about a file on the server; returns the answer, or `None`."""
    functions = json.loads(call(address, "config")[1])["dependencies"]
    number = next(one["id"] for one in functions if one["api_name"] == "answer")
    session, file = uuid.uuid4().hex, {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [file, 0], "fn_index": number, "session_hash": session}
    assert call(address, "gradio_api/queue/join", body)[0] == 200
    _, found = call(address, f"gradio_api/queue/data?session_hash={session}")
    events = [json.loads(line[6:]) for line in found.splitlines() if line]
    (last,) = (event for event in events if event["msg"] == "process_completed")
    return last["output"]["data"][0] if last["success"] else None


@pytest.mark.slow
def test_the_server_serves_no_other_file(address, root, tmp_path):
    secrets = [root / "runs" / "secret.png", tmp_path / "secret.png"]
    for path in secrets:
        path.write_bytes(encode(noise_picture(1)))
    run_dir = root / "runs" / "tiny" / "better"
    places = [*secrets, run_dir / "config.json", "runs/secret.png", "../runs/secret.png"]
    for route in ("gradio_api/file=", "file=", "gradio_api/file/", "static/", "assets/"):
        for place in places:
            assert call(address, f"{route}{place}")[0] in (400, 403, 404, 405), (route, place)
    # Nor does the model see one.
    for place in secrets:
        assert ask(address, str(place)) is None
    _, uploaded = send(address, secrets[0].read_bytes(), "../../up.png")
    assert "/catsdogs-" in uploaded and "verdict" in ask(address, uploaded)
    assert send(address, bytes(21 * 2**20)) == (413, None)


@pytest.mark.slow
def test_a_website_whose_name_leads_to_this_computer_is_refused(address):
    """DNS rebinding."""
    hosts = {"evil.example": 400, "localhost:1": 200, "127.0.0.1": 200}
    assert {host: call(address, "config", Host=host)[0] for host in hosts} == hosts


@pytest.mark.slow
def test_several_clients_at_once_are_all_answered(address, photos):
    contents = [(photos / name).read_bytes() for name in ("good.png", "text.jpg")]

    def client(number):
        return ask(address, send(address, contents[number % 2], f"{number}.png")[1])

    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        answers = list(executor.map(client, range(16)))
    (prediction,) = set(answers[::2])
    assert "verdict" in prediction
    assert all("card error" in found for found in answers[1::2])
