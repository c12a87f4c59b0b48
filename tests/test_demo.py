"""The page: driven in a real browser, with the numbers of `predict_images`; what it refuses."""

import concurrent.futures
import contextlib
import importlib.util
import json
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid

import keras
import numpy as np
import pytest
from conftest import MEASURED, METRICS, ROOT
from PIL import Image

from catsdogs.data.images import decode_image
from catsdogs.errors import InputError
from catsdogs.files import write_json
from catsdogs.inference import demo, demo_page
from catsdogs.inference.demo_choices import example_pictures, find_choices, name_choices
from catsdogs.inference.predict import Prediction, predict_images, predict_pictures
from catsdogs.models import networks as models
from catsdogs.models.model_file import load_saved_model, save_model

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
        interval = [accuracy - 0.1, min(1, accuracy + 0.1)]
        validation = {**MEASURED, "accuracy": accuracy, "accuracy_interval95": interval}
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


@contextlib.contextmanager
def serve(root, folder, **options):
    """Yields the address of a server that `scripts/demo.py` started; its uploads go when it ends.

    Args:
        root: Its working folder.
        folder: Folder for its log and its uploads.
        options: Of `subprocess.Popen`.
    """
    if not HAS_GRADIO:
        pytest.skip("Gradio is missing: pip install 'catsdogs[demo]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    temporary, log = folder / "temporary", folder / "stderr.txt"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, ROOT / "scripts" / "demo.py", "--port", str(port)]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True,
            **options,
        ) as server,
    ):  # fmt: skip
        try:
            assert server.stdout.readline() == (
                f"The page is at http://127.0.0.1:{port}/ (Ctrl-C stops it).\n"
            )
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()
    assert server.returncode == 130 and not list(temporary.iterdir())
    assert {path.name for path in root.iterdir()} == {"runs"}
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="module")
def address(root, tmp_path_factory):
    """Where a server listens."""
    with serve(root, tmp_path_factory.mktemp("server")) as found:
        yield found


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


def call(address, path, content=None, kind="application/json", timeout=60):
    """Sends a request; returns the status and the body."""
    if isinstance(content, (dict, list)):
        content = json.dumps(content).encode()
    headers = {"Content-Type": kind} if content is not None else {}
    request = urllib.request.Request(address + path, content, headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as found:
            return found.status, found.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def send(address, content, name="photo.png"):
    """Uploads a file as a browser does; returns the status and the path it was given."""
    head = f'Content-Disposition: form-data; name="files"; filename="{name}"'
    body = b"--x\r\n" + head.encode("utf-8", "surrogateescape") + b"\r\n\r\n" + content
    status, found = call(
        address, "gradio_api/upload", body + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"
    )
    return status, json.loads(found)[0] if status == 200 else None


def ask(address, *data):
    """Asks as the page does, without the page; returns whether it went well, and the answer."""
    _, found = call(address, "config")
    functions = json.loads(found)["dependencies"]
    number = next(one["id"] for one in functions if one["api_name"] == "answer")
    session = uuid.uuid4().hex
    body = {"data": data, "fn_index": number, "session_hash": session}
    status, found = call(address, "gradio_api/queue/join", body)
    if status != 200:
        return False, found.decode()
    _, found = call(address, f"gradio_api/queue/data?session_hash={session}")
    events = [json.loads(line[6:]) for line in found.decode().splitlines() if line]
    (last,) = (event for event in events if event["msg"] == "process_completed")
    return last["success"], json.dumps(last["output"])


def test_no_other_file_is_served(address, root, campaign):
    (root / "runs" / "secret.txt").write_text("a secret of the server")
    (root / "runs" / ".hidden").write_text("a secret of the server")
    inside = [root / "runs" / name for name in ("secret.txt", ".hidden", "tiny/better/config.json")]
    places = [*map(str, inside), "/etc/passwd", "http://a.bc", "runs/secret.txt"]
    places += ["../../../../etc/passwd", "/tmp/../etc/passwd", "%2e%2e/%2e%2e/etc/passwd"]
    places += ["/dev/zero", "%00", "x" * 5000, "..%5c..%5cetc", "file:///etc/passwd"]
    routes = [
        "gradio_api/file=", "file=", "gradio_api/file/", "gradio_api/proxy=", "static/", "svelte/",
        "assets/", "gradio_api/stream/a/b/c/", "gradio_api/custom_component/1/server/file/",
    ]  # fmt: skip
    for route in routes:
        for place in places:
            with campaign.fault("the page's server serves no other file"):
                status, body = call(address, route + place)
                assert b"a secret" not in body and b"root:" not in body and b'"stage"' not in body
                assert status in (400, 403, 404, 405, 422, 500)


FORGED = [
    "/etc/passwd", "runs/secret.txt", "../../etc/passwd", "http://127.0.0.1:1/x.png", "a\0b",
    "file:///etc/passwd", "x" * 5000, "/dev/zero", "/proc/self/environ", "", ".", "\ud800",
]  # fmt: skip


def test_forged_requests_are_refused(address, root, photos, campaign):
    _, uploaded = send(address, (photos / "whole.png").read_bytes())
    kind = {"_type": "gradio.FileData"}
    (root / "runs" / "secret.txt").write_text("a secret of the server")
    files = [{"path": path, "meta": kind} for path in [*FORGED, str(root / "runs" / "secret.txt")]]
    files += [{"path": path, "url": "http://127.0.0.1:1/", "meta": kind} for path in FORGED[:3]]
    files += ["/etc/passwd", 7, [], {}, {"path": None}, {"meta": kind}, [{"path": "/etc/passwd"}]]
    requests = [(file, 0) for file in files]
    good = {"path": uploaded, "meta": kind}
    requests += [(good, index) for index in (7, -3, "0", None, [0], {}, 10**30)]
    requests += [(), (good,)]
    for request in requests:
        with campaign.fault("a forged request to the page is refused"):
            succeeded, answer = ask(address, *request)
            assert not succeeded or "card found" not in answer, request
            assert "a secret" not in answer and "root:" not in answer
    for body in (b"", b"{", b"[" * 100_000, b"null", b'{"data": 7}', b'{"fn_index": 99}'):
        with campaign.fault("a forged request to the page is refused"):
            status, answer = call(address, "gradio_api/queue/join", body)
            assert status >= 400 or b"card" not in answer, body
    for path in ("gradio_api/run/answer", "gradio_api/call/answer", "gradio_api/api/answer"):
        with campaign.fault("a forged request to the page is refused"):
            status, answer = call(address, path, {"data": [files[0], 0]})
            if status == 200:
                _, answer = call(address, f"{path}/{json.loads(answer)['event_id']}")
            assert b"card" not in answer and b"root:" not in answer
    succeeded, answer = ask(address, good, 0)
    assert succeeded and "card found" in answer


def test_more_connections_than_files_are_survived(root, photos, tmp_path, campaign):
    def few_files():
        resource.setrlimit(resource.RLIMIT_NOFILE, (120, 120))

    content = (photos / "whole.png").read_bytes()
    with serve(root, tmp_path, preexec_fn=few_files) as found:
        port = int(found.rpartition(":")[2].rstrip("/"))
        with campaign.fault("connections that ask nothing, more than a process may have"):
            held = []
            for _ in range(300):
                held.append(socket.create_connection(("127.0.0.1", port), timeout=5))
            time.sleep(2)
            for connection in held:
                connection.close()
            status, path = send(found, content)
            assert status == 200
            file = {"path": path, "meta": {"_type": "gradio.FileData"}}
            succeeded, answer = ask(found, file, 0)
            assert succeeded and "card found" in answer


def test_a_website_of_another_name_is_refused(address):
    """Whoever makes a name lead to this computer (DNS rebinding) gets nothing out of a browser."""
    for host, expected in (("evil.com", 400), ("localhost:1", 200), ("127.0.0.1", 200)):
        request = urllib.request.Request(f"{address}config", headers={"Host": host})
        try:
            with urllib.request.urlopen(request) as answer:
                status = answer.status
        except urllib.error.HTTPError as error:
            status = error.code
        assert status == expected, host


def test_uploads_that_were_broken_off_go_too(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "half").touch()
    demo._delete_older(tmp_path, 60)
    assert (tmp_path / "deep" / "half").exists()
    demo._delete_older(tmp_path, -1)
    assert not (tmp_path / "deep" / "half").exists()


def test_a_threshold_is_a_probability():
    with pytest.raises(InputError, match="from 0 to 1"):
        demo.serve([], "127.0.0.1", 0, threshold=float("nan"))


def test_names_of_uploads_lead_nowhere(address, root, photos, campaign):
    content = (photos / "whole.png").read_bytes()
    names = [
        "../../up.png", "/etc/up.png", "..\\..\\up.png", "u" * 300 + ".png", "\u202egnp.png",
        "é\udcff.png", ".htaccess", "..", "con.png", "a/b/c.png", "-rf.png", "$(reboot).png",
    ]  # fmt: skip
    for name in names:
        with campaign.fault("an upload's name leads nowhere"):
            status, path = send(address, content, name)
            if status == 200:
                assert "/catsdogs-" in path and ".." not in pathlib.Path(path).parts
                succeeded, answer = ask(
                    address, {"path": path, "meta": {"_type": "gradio.FileData"}}, 0
                )
                # Those that are no picture's by their end are refused before the model sees them.
                assert (succeeded and "card found" in answer) or not name.endswith(".png"), answer
            assert not list(root.rglob("*up.png"))
    with campaign.fault("an upload of 21 MB is refused"):
        assert send(address, bytes(21 * 2**20))[0] == 413


def test_ten_clients_at_once(address, photos, campaign):
    """Everybody gets an answer, and the same one; `make torture` tells how soon."""
    contents = [(photos / name).read_bytes() for name in ("whole.png", "text.jpg")]

    def client(number):
        found = []
        for turn in range(campaign.size(2, 20)):
            began = time.monotonic()
            broken = (number + turn) % 5 == 0
            _, path = send(address, contents[broken], f"{number}.png")
            file = {"path": path, "meta": {"_type": "gradio.FileData"}}
            succeeded, answer = ask(address, file, 0)
            assert succeeded and f"card {'refusal' if broken else 'found'}" in answer
            found.append((time.monotonic() - began, None if broken else answer))
        return found

    with campaign.fault("ten clients at once are all answered"):
        with concurrent.futures.ThreadPoolExecutor(10) as executor:
            found = [one for turns in executor.map(client, range(10)) for one in turns]
        assert len({answer.partition("data:")[0] for _, answer in found if answer}) == 1
    seconds = np.array([one for one, _ in found])
    p50, p99 = np.percentile(seconds, [50, 99])
    what = f"{len(seconds)} requests of 10 clients to the page"
    campaign.note(what, f"p50 {p50:.1f} s, p99 {p99:.1f} s")


def test_server_process_connects_to_nothing(root, tmp_path):
    """Once the page is served, the very process that serves it cannot connect, even to itself."""
    code = (
        "import socket, types; from catsdogs import demo\n"
        "page = types.SimpleNamespace(launch=lambda **k: None, local_url='', close=lambda **k: 0)\n"
        "demo.build_demo = lambda *a: page\n"
        "demo._look = dict\n"
        "def wait(seconds):\n"
        "    with socket.socket() as listening:\n"
        "        listening.bind(('127.0.0.1', 0)); listening.listen()\n"
        "        try: socket.create_connection(listening.getsockname())\n"
        "        except PermissionError as error: print(error)\n"
        "    raise SystemExit\n"
        "demo.time.sleep = wait\n"
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


def test_real_runs_come_before_smoke_runs_and_drawings(root, tmp_path):
    """And a high accuracy on few pictures tells less than a lower one on many."""
    model = root / "runs" / "tiny" / "better" / "model.keras"
    for name, accuracy, low, changes in (
        ("a-drawings", 1.0, 0.99, {"drawings": True}),
        ("b-smoke", 1.0, 0.98, {"config": {"seed": 0, "smoke": True}}),
        ("c-few", 1.0, 0.6, {}),
        ("d-many", 0.95, 0.93, {}),
    ):
        folder = tmp_path / "tiny" / name
        measured = {**MEASURED, "accuracy": accuracy, "accuracy_interval95": [low, 1.0]}
        write_json(folder / "metrics.json", {**METRICS, "validation": measured, **changes})
        write_json(folder / "config.json", {"stage": "scratch", "data_dir": "x", "smoke": False})
        shutil.copyfile(model, folder / "model.keras")
    found = [choice.path.name for choice in find_choices(root=tmp_path)]
    assert found == ["d-many", "c-few", "b-smoke", "a-drawings"]


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
