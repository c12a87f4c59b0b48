"""A local web page that answers for photos: the class, its probability, where the model looked."""

import contextlib
import functools
import importlib.util
import ipaddress
import logging
import os
import pathlib
import resource
import sys
import tempfile
import time
import traceback

from catsdogs.data.images import decode_image
from catsdogs.errors import InputError, shorten
from catsdogs.inference import demo_page
from catsdogs.inference.demo_choices import example_pictures, name_choices, shrink
from catsdogs.inference.explain import grad_cam
from catsdogs.inference.explain_plot import overlay
from catsdogs.inference.predict import Prediction, predict_images
from catsdogs.models.model_file import load_saved_model

__all__ = ["answer", "build_demo", "serve"]

_SHOWN_SIDE = 720  # pixels, the longer side of the picture on the page
_MAX_FILE_SIZE = "20mb"  # a photo of the best phones takes 15
_QUEUE = 100  # requests that wait; more are told that the page is busy
_CACHE_SECONDS = (600, 3600)  # how often uploads are looked through, how old they may get


def answer(saved, file):
    """What a model says about one picture, and why.

    Args:
        saved: A `SavedModel`.
        file: Path of the picture.

    Returns:
        A triple: the `Prediction`; the picture, uint8 (height, width, 3), the longer side 720
        pixels at most; and the same with the model's Grad-CAM laid over it.

    Raises:
        InputError: If the file cannot be read.
    """
    image = decode_image(file, saved.image_size)[None]
    picture = shrink(decode_image(file), _SHOWN_SIDE)
    (row,) = predict_images(saved, image)
    prediction = Prediction(str(file), dict(zip(saved.classes, row, strict=True)), None)
    (heatmap,) = grad_cam(saved.model, image)
    return prediction, picture, overlay(picture, heatmap)


def build_demo(choices, threshold=0.8):
    """The page. Models are loaded when they are asked, and only the last one is kept.

    Args:
        choices: List of `demo_choices.Choice`; the first is chosen at the start.
        threshold: Answers of a lower probability are marked as unsure.

    Returns:
        A `gradio.Blocks`.

    Raises:
        InputError: If Gradio is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError(
            "Expected the package gradio for the page, found none. "
            "Install the extra: pip install 'catsdogs[demo]'."
        )
    import gradio as gr

    load = functools.lru_cache(maxsize=1)(load_saved_model)

    def ask(file, index):
        if file is None:
            return demo_page.render_invitation(), None
        try:
            found = answer(load(choices[index].path), file)
            return demo_page.render_answer(*found, threshold), file
        except InputError as error:
            # As predict.py says it, without the folder in which the server keeps uploads.
            sentence = str(error).replace(str(file), pathlib.Path(file).name)
            return demo_page.render_refusal(sentence), None

    def ask_example(index, event: gr.EventData):
        file, _ = example_pictures(choices[index])[event.number]
        return ask(file, index)

    def describe(index):
        choice = choices[index]
        thumbnails = [thumbnail for _, thumbnail in example_pictures(choice)]
        return (
            demo_page.render_model(choice.classes, choice.validation),
            demo_page.render_examples(thumbnails),
        )

    with gr.Blocks(
        title="What is in the photo?", analytics_enabled=False, delete_cache=_CACHE_SECONDS
    ) as blocks:
        asked = gr.State()  # the last picture, to ask another model about it
        gr.HTML(
            "<h1>What is in the photo?</h1><p>Drop one, and a trained model answers. "
            "The photo stays on the computer that runs this page.</p>",
            elem_id="page-head",
        )
        with gr.Row(elem_id="layout"):
            with gr.Column(elem_id="photo"):
                upload = gr.File(show_label=False, file_types=["image"], height=170)
            with gr.Column(elem_id="answer"):
                result = gr.HTML(demo_page.render_invitation())
            with gr.Column(elem_id="more"):
                model = gr.Dropdown(
                    list(zip(name_choices(choices), range(len(choices)), strict=True)),
                    value=0, label="Model", filterable=False, visible=len(choices) > 1,
                )  # fmt: skip
                about = gr.HTML()
                examples = gr.HTML(js_on_load=demo_page.EXAMPLES_SCRIPT)
        # One at a time, whatever is asked: two processors and one model are shared by everybody.
        limits = {"concurrency_id": "model", "concurrency_limit": 1}
        hidden = {"api_visibility": "private"}
        answered = upload.upload(ask, [upload, model], [result, asked], api_name="answer", **limits)
        answered.then(None, None, upload, js="() => null", **hidden)  # room for the next photo
        examples.select(ask_example, model, [result, asked], **hidden, **limits)
        blocks.load(describe, model, [about, examples], **hidden, **limits)
        chosen = model.input(describe, model, [about, examples], **hidden, **limits)
        chosen.then(ask, [asked, model], [result, asked], **hidden, **limits)
    return blocks.queue(api_open=False, max_size=_QUEUE)


def serve(choices, host, port, threshold=0.8):
    """Serves the page until Ctrl-C; what is uploaded lies in a folder that goes with it.

    Args:
        choices, threshold: As for `build_demo`.
        host: Address to listen at; `"0.0.0.0"` lets others on the network in.
        port: Port, an integer.

    Raises:
        InputError: If nothing can listen there, the threshold is no probability, or Gradio is not
            installed.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"Expected --threshold from 0 to 1. Received: {threshold}.")
    _allow_connections()
    with tempfile.TemporaryDirectory(prefix="catsdogs-") as folder:
        # Gradio serves what lies in these; by default other programs use them too.
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_EXAMPLES_CACHE=folder)
        blocks = build_demo(choices, threshold)
        try:
            blocks.launch(
                server_name=host, server_port=port, share=False, quiet=True,
                prevent_thread_lock=True, max_file_size=_MAX_FILE_SIZE, ssr_mode=False, pwa=False,
                mcp_server=False, footer_links=[], run_history=False, css=demo_page.STYLE,
                enable_monitoring=False, app_kwargs={"middleware": _check_host(host)}, **_look(),
            )  # fmt: skip
        except (OSError, OverflowError):
            raise InputError(
                "Expected an address of this computer and a port that no other program uses, "
                f"received {host}:{port}. Choose another --port or --host."
            ) from None
        sys.addaudithook(_refuse_connections)
        # What a forged request breaks is worth a line: Gradio's own, or none where it is the
        # server that tells of it.
        traceback.print_exc = _print_refusal
        for name in ("uvicorn.error", "asyncio"):  # asyncio's: more connections than files
            logging.getLogger(name).addFilter(lambda record: not record.exc_info)
        print(f"The page is at {blocks.local_url} (Ctrl-C stops it).", flush=True)
        try:
            while True:
                time.sleep(_CACHE_SECONDS[0])
                _delete_older(folder, _CACHE_SECONDS[1])
        finally:
            blocks.close(verbose=False)


def _allow_connections():
    """Each takes an open file, of which a process is at first given 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a system may promise more than it gives
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _check_host(host):
    """What refuses a website whose name was made to lead to this computer (DNS rebinding)."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    local = host == "localhost"
    with contextlib.suppress(ValueError):
        local = local or ipaddress.ip_address(host).is_loopback
    hosts = ["localhost", "127.0.0.1", "[::1]", host]
    return [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)] if local else []


def _delete_older(folder, seconds):
    """Deletes uploads that were broken off, which Gradio forgets."""
    for path in pathlib.Path(folder).rglob("*"):
        with contextlib.suppress(OSError):  # just deleted by Gradio
            if path.is_file() and time.time() - path.stat().st_ctime > seconds:
                path.unlink()


def _look():
    """Theme and words, as `launch` takes them."""
    import gradio as gr

    # The system's own fonts, since others might have to be fetched.
    fonts = {"font": ("system-ui", "sans-serif"), "font_mono": ("monospace",)}
    theme = gr.themes.Default(primary_hue="sky", radius_size="lg", **fonts)
    # Gradio's own grey is too faint to read on white.
    theme.set(body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_400")
    words = {"drop_file": "Drop a photo here", "click_to_upload": "choose one"}
    words = {f"upload_text.{key}": word for key, word in words.items()}
    return {"theme": theme, "i18n": gr.I18n(en=words)}


def _refuse_connections(event, arguments):
    """An audit hook: from now on this process answers calls and makes none.

    Gradio would fetch an address that a client gives in place of a file.
    """
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise PermissionError(f"Expected no connection from this process. Received: {event}")


def _print_refusal():
    """In place of `traceback.print_exc`, with which Gradio tells what a forged request broke."""
    error = sys.exception()
    reason = f"{type(error).__name__}: {shorten(error)}"
    print(f"demo.py: Refused a request: {reason}", file=sys.stderr)
