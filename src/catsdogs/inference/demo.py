"""A local web page: drop a photo, see its class, the probability and where the model looked."""

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import os
import pathlib
import shutil
import tempfile
import threading

import jinja2
import numpy as np
from PIL import Image

from catsdogs.data.images import decode_image
from catsdogs.errors import InputError
from catsdogs.inference.explain import grad_cam, overlay
from catsdogs.inference.predict import Prediction, list_pictures, predict_images
from catsdogs.models.model_file import load_saved_model, read_card
from catsdogs.stages.run import is_complete, load_run, validation_folder

__all__ = ["Choice", "answer", "build_demo", "copy_examples", "find_choices", "serve"]

_HEATMAP_SIDE = 720  # pixels, the longer one
_IMAGE_HEIGHT = 400  # pixels, on the page
_NUM_EXAMPLES = 8
_MAX_FILE_SIZE = "20mb"  # a photo of the best phones takes 15
_MAX_WAITING = 100  # requests; further ones are turned away

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("catsdogs.inference"), autoescape=True, trim_blocks=True
)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A model that the page offers."""

    path: pathlib.Path
    """Run folder or `.keras` file."""
    classes: tuple[str, ...]
    metrics: dict | None
    """`metrics.json` of its run, if it is one."""

    @property
    def name(self):
        """Its validation accuracy, if that is known, and the end of its path."""
        name = "/".join(self.path.absolute().parts[-2:])
        if self.metrics is None:
            return name
        return f"{self.metrics['validation']['accuracy']:.1%}  {name}"


def find_choices(paths=(), root="runs"):
    """Finds the models to offer.

    Args:
        paths: Run folders and `.keras` files, in the order to offer them.
        root: If there are no paths, all finished runs in this folder are offered: those on
            photographs before those on sketches, smoke runs last, and then by the lower bound of
            the validation accuracy, because a high accuracy on a small set means little.

    Returns:
        A list of `Choice`, at least one.

    Raises:
        InputError: If a model that was named cannot be used, or no run was found.
    """
    if paths:
        return [_choice(pathlib.Path(path)) for path in paths]
    choices = []
    for path in sorted(pathlib.Path(root).glob("*/*/")):
        if is_complete(path):
            with contextlib.suppress(InputError):  # a run of an earlier version, say
                choices.append(_choice(path))
    if not choices:
        raise InputError(
            f"Expected a finished run with a model in {root}/*/*/, found none. Train one with "
            "scripts/train_scratch.py, or name a run or a .keras file."
        )
    return sorted(choices, key=_rank)


def _choice(path):
    metrics = load_run(path)[1] if is_complete(path) else None
    return Choice(path, read_card(path)["classes"], metrics)


def _rank(choice):
    low, _ = choice.metrics["validation"]["accuracy_interval95"]
    return choice.metrics["sketches"], choice.metrics["config"]["smoke"], -low


def copy_examples(choice, folder):
    """Copies some validation pictures of a run, of every class in turn, to a new folder.

    The page's server serves no file from where the dataset is.

    Returns:
        Paths of the copies, a list of `str`; empty if the run's dataset is not on this machine.
    """
    try:
        validation = pathlib.Path(validation_folder(choice.path))
    except InputError:
        return []
    classes = [list_pictures([str(path)]) for path in sorted(validation.iterdir())]
    files = filter(None, itertools.chain.from_iterable(itertools.zip_longest(*classes)))
    os.makedirs(folder, exist_ok=True)
    return [
        shutil.copy(file, os.path.join(folder, f"{number}{os.path.splitext(file)[1]}"))
        for number, file in enumerate(itertools.islice(files, _NUM_EXAMPLES))
    ]


def answer(saved, file):
    """Predicts a picture, and shows where the evidence for its class lies.

    Args:
        saved: A `SavedModel`.
        file: Path of the picture.

    Returns:
        A pair: the `Prediction`, and the picture overlaid with its Grad-CAM, uint8
        (height, width, 3), the longer side 720 pixels at most.

    Raises:
        InputError: If the file cannot be read.
    """
    image = decode_image(file, saved.image_size)[None]
    picture = Image.fromarray(decode_image(file))
    picture.thumbnail((_HEATMAP_SIDE, _HEATMAP_SIDE))
    (row,) = predict_images(saved, image).tolist()
    prediction = Prediction(str(file), dict(zip(saved.classes, row, strict=True)), None)
    (heatmap,) = grad_cam(saved.model, image)
    return prediction, overlay(np.asarray(picture), heatmap)


def build_demo(choices, folder, threshold=0.8):
    """Builds the page. A model is loaded when it is first used, and only the last one is kept.

    Args:
        choices: List of `Choice`; the first is chosen at the start.
        folder: Folder for copies of the example pictures.
        threshold: Predictions of a lower probability are marked as unsure.

    Returns:
        A `gradio.Blocks`.

    Raises:
        InputError: If Gradio is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError(
            "Expected the package gradio for the page, found none. Install it: pip install gradio."
        )
    import gradio as gr

    load = functools.lru_cache(maxsize=1)(load_saved_model)
    render_answer = _templates.get_template("answer.html.jinja").render
    render_model = _templates.get_template("model.html.jinja").render

    @functools.cache
    def examples_of(index):
        return copy_examples(choices[index], os.path.join(folder, f"examples-{index}"))

    def ask(file, index):
        if file is None:
            return render_answer(), gr.Image(visible=False)
        try:
            prediction, heatmap = answer(load(choices[index].path), file)
        except InputError as error:
            # Without the folder in which the server keeps uploads.
            reason = str(error).replace(file, pathlib.Path(file).name)
            return render_answer(error=reason), gr.Image(visible=False)
        page = render_answer(prediction=prediction, threshold=threshold)
        return page, gr.Image(heatmap, visible=True)

    def describe(index):
        samples = [[file] for file in examples_of(index)]
        return render_model(choice=choices[index]), gr.Dataset(
            samples=samples, visible=bool(samples)
        )

    with gr.Blocks(title="What is in the photo?", analytics_enabled=False) as blocks:
        gr.Markdown(
            "# What is in the photo?\nDrop one to see what a trained model predicts. "
            "The photo stays on the computer that runs this page.",
            elem_id="heading",
        )
        with gr.Row(elem_id="layout"):
            with gr.Column(elem_id="photo"):
                photo = gr.Image(
                    show_label=False,
                    sources=["upload", "clipboard"],
                    placeholder="Drop a photo here\nor click to choose one",
                    height=_IMAGE_HEIGHT,
                    alt_text="The chosen photo",
                )
                # `decode_image` reads the file as it is, and reports what is wrong with it.
                photo.preprocess = lambda payload: payload.path if payload else None
            with gr.Column(elem_id="answer"):
                result = gr.HTML(render_answer())
                heatmap = gr.Image(
                    show_label=False,
                    visible=False,
                    height=_IMAGE_HEIGHT,
                    buttons=["fullscreen"],
                    alt_text="The photo, coloured where the evidence for the prediction is",
                )
            with gr.Column(elem_id="more"):
                examples = gr.Dataset(
                    label="Or try one of these",
                    components=[gr.Image(render=False)],
                    samples=[[file] for file in examples_of(0)],
                    type="index",
                    elem_id="examples",
                    visible=bool(examples_of(0)),
                )
                model = gr.Dropdown(
                    [(choice.name, index) for index, choice in enumerate(choices)],
                    value=0,
                    label="Model",
                    filterable=False,
                    visible=len(choices) > 1,
                )
                about = gr.HTML(render_model(choice=choices[0]))
        # One photo at a time: everybody shares the processors and the model.
        limits = {"concurrency_id": "model", "concurrency_limit": 1}
        photo.change(ask, [photo, model], [result, heatmap], api_name="answer", **limits)
        examples.click(lambda example, index: examples_of(index)[example], [examples, model], photo)
        model.input(describe, model, [about, examples]).then(
            ask, [photo, model], [result, heatmap], **limits
        )
    return blocks.queue(api_open=False, max_size=_MAX_WAITING)


def serve(choices, host, port, threshold=0.8):
    """Serves the page until it is interrupted; uploads are deleted at the end.

    Args:
        choices, threshold: As for `build_demo`.
        host: Address to listen on; `"0.0.0.0"` makes the page reachable from the network.
        port: Port, an integer.

    Raises:
        InputError: If the address cannot be used, or Gradio is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="catsdogs-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # uploads; before Gradio is imported
        blocks = build_demo(choices, folder, threshold)
        try:
            blocks.launch(
                server_name=host,
                server_port=port,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=_MAX_FILE_SIZE,
                ssr_mode=False,
                run_history=False,
                footer_links=[],
                theme=_theme(),
                css_paths=pathlib.Path(__file__).with_name("templates") / "style.css",
                app_kwargs={"middleware": [_host_check(host)]},
            )
        except OSError:
            raise InputError(
                "Expected an address of this computer and a free port, "
                f"received {host}:{port}. Choose another --port or --host."
            ) from None
        print(f"The page is at {blocks.local_url} (Ctrl-C stops it).", flush=True)
        try:
            threading.Event().wait()
        finally:
            blocks.close(verbose=False)


def _host_check(host):
    """Refuses websites whose name was made to point to this computer (DNS rebinding)."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    local = ["127.0.0.1", "localhost"]
    return Middleware(TrustedHostMiddleware, allowed_hosts=local if host in local else ["*"])


def _theme():
    import gradio as gr

    # The system's own fonts, because others would be fetched from the network.
    theme = gr.themes.Default(
        primary_hue="sky", radius_size="lg", font=("system-ui", "sans-serif"), font_mono="monospace"
    )
    # Gradio's own grey is too faint to read on white.
    return theme.set(
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_400"
    )
