"""No leak, no mix-up, no wrong figure: what would make the numbers look better than they are."""

import ast
import csv
import dataclasses
import importlib.util
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time

import hypothesis
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy import stats
from sklearn import metrics as sklearn_metrics
from test_architecture import SCRIPTS, SOURCES

from catsdogs.config import FEATURE_EXTRACT, SCRATCH
from catsdogs.data import batches as pipeline
from catsdogs.data import images as images_module
from catsdogs.data.images import decode_image, load_split, map_pictures
from catsdogs.data.manifest import SPLITS, load_manifest
from catsdogs.data.sources import open_source
from catsdogs.data.splits import prepare
from catsdogs.errors import InputError
from catsdogs.evaluation.calibration import apply_temperature, expected_calibration_error
from catsdogs.evaluation.metrics import confusion_matrix, evaluate_predictions, roc_auc, roc_curve
from catsdogs.evaluation.significance import mcnemar_test, wilson_interval
from catsdogs.inference.predict import predict_images
from catsdogs.models import networks as models
from catsdogs.models.model_file import load_saved_model
from catsdogs.stages import evaluate as evaluate_run
from catsdogs.stages import stage_run
from catsdogs.stages import training_stages as stages
from catsdogs.stages.features import FeatureStore


def fewer(divisor):
    """Settings of a costly property: that many times fewer examples than the profile has."""
    return hypothesis.settings(
        max_examples=max(5, hypothesis.settings.default.max_examples // divisor),
        suppress_health_check=list(hypothesis.HealthCheck),
    )


# ---- Nobody trains on the test split ----

# Runs the real scripts, one after the other, in a process that writes down every path it opens.
WATCH = """
import json, os, runpy, sys
found = open(sys.argv[1], "w", errors="surrogateescape")
def record(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], (str, bytes)):
        found.write(os.path.abspath(os.fsdecode(arguments[0])) + "\\n")
sys.addaudithook(record)
for words in json.loads(sys.argv[2]):
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            raise
"""
TRAINING = [
    "train_scratch.py --smoke --preset textbook --augmentation strong --mixup 0.5",
    "train_feature_extract.py --smoke",
    "finetune.py --smoke --variant cached",
]
MORE_TRAINING = [
    "train_scratch.py --smoke --preset best",
    "train_scratch.py --smoke --preset record",
    "train_scratch.py --smoke --preset textbook",
    "train_scratch.py --smoke --architecture textbook --augmentation none --run-dir plain",
    "train_feature_extract.py --smoke --pooled-only --run-dir pooled",
    "train_feature_extract.py --smoke --preset textbook",
    "train_feature_extract.py --smoke --preset textbook --variant augmented",
    "train_feature_extract.py --smoke --variant end_to_end --run-dir end-to-end",
    "train_feature_extract.py --smoke --variant augmented",
    "finetune.py --smoke",
    "finetune.py --smoke --variant end_to_end",
    "finetune.py --smoke --preset textbook",
]


@pytest.fixture(scope="module")
def without_test(data_dir, tmp_path_factory):
    """The tiny data set, whose test pictures nobody can read."""
    folder = tmp_path_factory.mktemp("without") / "data"
    shutil.copytree(data_dir, folder, ignore=shutil.ignore_patterns("decoded", "features"))
    shutil.rmtree(folder / "test")
    return folder


def watch(folder, data_dir, commands):
    """Runs scripts in `folder`; returns the finished process and the paths that it opened."""
    words = [
        [str(ROOT / "scripts" / command.split()[0]), *command.split()[1:], "--data-dir",
         str(data_dir), *(["--tensorboard"] if importlib.util.find_spec("tensorboard") else [])]
        for command in commands
    ]  # fmt: skip
    finished = subprocess.run(
        [sys.executable, "-c", WATCH, folder / "opened", json.dumps(words)],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    return finished, (folder / "opened").read_text(errors="surrogateescape").splitlines()


def test_training_never_touches_the_test_split(without_test, vgg16_weights, tmp_path, campaign):
    commands = TRAINING + (MORE_TRAINING if campaign.size(0, 1) else [])
    finished, opened = watch(tmp_path, without_test, commands)
    assert finished.returncode == 0, finished.stderr
    inside = {os.path.relpath(path, without_test) for path in opened}
    for made in ("train/cat", "validation/dog", "decoded/train-", "features/validation-"):
        assert any(path.startswith(made) for path in inside), f"{made}: nothing is recorded"
    for _ in commands:
        with campaign.fault("training without a test split: nothing asks for it"):
            assert not [path for path in inside if path.startswith("test")]
            assert not [path for path in inside if path.partition("/")[2].startswith("test-")]
    finished_runs = sorted(tmp_path.glob("**/metrics.json"))
    assert len(finished_runs) >= len(commands)  # fine-tuning may make its start
    assert all("test" not in json.loads(path.read_text()) for path in finished_runs)
    # What is missing would have been missed.
    with pytest.raises(InputError, match=r"test/cat/.*as prepared. Received: no file"):
        evaluate_run.evaluate(finished_runs[0].parent, without_test)


def test_only_evaluation_asks_for_the_test_split():
    asking = {
        path.stem
        for path in [*SOURCES.values(), *SCRIPTS]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]
        if isinstance(argument, ast.Constant) and argument.value == "test"
    }
    assert asking == {"evaluate_run"}
    # Those that go through all splits: two make and list them, the other counts and links files.
    through_all = {
        path.stem
        for path in [*SOURCES.values(), *SCRIPTS]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "SPLITS"
    }
    assert through_all == {"manifest", "splits", "benchmark"}


# ---- No picture is in two splits ----

TRANSFORMS = {
    "resaved": lambda image, rng: image,
    "smaller": lambda image, rng: image.resize(
        [round(s * rng.uniform(0.5, 1)) for s in image.size]
    ),
    "larger": lambda image, rng: image.resize([round(s * rng.uniform(1, 2)) for s in image.size]),
    "grey": lambda image, rng: image.convert("L"),
    "mirrored": lambda image, rng: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    # Two copies of one picture then differ by a tenth at most.
    "brighter": lambda image, rng: ImageEnhance.Brightness(image).enhance(rng.uniform(0.95, 1.05)),
    "cropped": lambda image, rng: image.crop((2, 2, image.width - 2, image.height - 2)),
}


def noise(seed, size=(120, 96)):
    """Smooth noise; two seeds give pictures that do not look alike."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def save(image, path, quality=92):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=quality)


def thumbnails(data_dir, manifest):
    """Every picture and its mirror image, shrunk: float64 (2, n, 576), of mean 0 and length 1."""
    found = []
    for file in manifest.files:
        with Image.open(data_dir / file.name) as image:
            grey = image.convert("L").resize((24, 24), Image.Resampling.LANCZOS)
        found.append(np.asarray(grey, np.float64))
    stack = np.stack([np.stack(found), np.stack(found)[:, :, ::-1]]).reshape(2, len(found), -1)
    stack -= stack.mean(axis=2, keepdims=True)
    return stack / np.linalg.norm(stack, axis=2, keepdims=True)


def straddling(data_dir, least=0.985):
    """Pairs of files in two splits that correlate: found by brute force, by no code of ours."""
    manifest = load_manifest(data_dir)
    plain, mirrored = thumbnails(data_dir, manifest)
    splits = np.array([SPLITS.index(file.split) for file in manifest.files])
    alike = np.maximum(plain @ plain.T, plain @ mirrored.T) >= least
    alike &= splits[:, None] < splits
    contents = [file.sha256 for file in manifest.files]
    names = [file.name for file in manifest.files]
    return [(names[i], names[j]) for i, j in np.argwhere(alike)] + [
        (one, other)
        for (one, a, s), (other, b, t) in itertools.combinations(
            zip(names, contents, splits, strict=True), 2
        )
        if a == b and s != t
    ]


@st.composite
def plans(draw):
    """Number of classes, and for every file, in order: class, picture, ways it was changed."""
    num_classes = draw(st.integers(2, 3))
    change = st.lists(st.sampled_from(sorted(TRANSFORMS)), max_size=1)
    file = st.tuples(st.integers(0, num_classes - 1), st.integers(0, 9), change)
    return num_classes, draw(st.lists(file, min_size=4, max_size=14)), draw(st.integers(0, 999))


@fewer(4)
@hypothesis.given(plan=plans())
def test_copies_never_straddle(plan, tmp_path_factory, campaign):
    num_classes, files, seed = plan
    root = tmp_path_factory.mktemp("copies")
    rng = random.Random(seed)
    shown = {}  # file name: what it shows
    places = [(place, *file) for place, file in enumerate(files)]
    # Copies lie anywhere in the order of the files; between and after them are single pictures.
    fillers = [(place + 0.5, label, 1000 * (label + 1) + place, []) for label in range(num_classes)
               for place in range(14)]  # fmt: skip
    for number, (_, label, subject, changes) in enumerate(sorted(places + fillers)):
        image = noise(seed * 100_000 + subject)
        for change in changes:
            image = TRANSFORMS[change](image, rng)
        name = f"{'abc'[label]}/{number}.jpg"
        save(image, root / "source" / name, quality=rng.randrange(50, 96))
        shown[name] = subject
    with campaign.fault("copies on both sides of a cut: all end up in one split"):
        with open_source(root / "source") as source:
            prepare(source, root / "data", train=5 * num_classes, validation=3 * num_classes,
                    test=2 * num_classes)  # fmt: skip
        manifest = load_manifest(root / "data")
        splits_of = {}
        for file in manifest.files:
            splits_of.setdefault(shown[file.name.partition("/")[2]], set()).add(file.split)
        assert all(len(splits) == 1 for splits in splits_of.values()), splits_of
        assert straddling(root / "data") == []
    shutil.rmtree(root)


def test_straddling_copies_would_be_found(data_dir, tmp_path):
    """The independent check itself: it is quiet on sound sets and finds what is planted."""
    assert straddling(data_dir) == []
    folder = shutil.copytree(data_dir, tmp_path / "data")
    names = [load_manifest(folder).split(split)[3].name for split in ("train", "test")]
    with Image.open(folder / names[0]) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / names[1])
    assert straddling(folder) == [tuple(names)]


# ---- Validation and test pictures are as they are ----

SMALL = {"image_size": 48, "epochs": 2, "batch_size": 16, "precision": "float32"}
AUGMENTED = [
    dataclasses.replace(
        SCRATCH[preset], crop_size=40, first_crop_size=32, augmentation=augmentation,
        mixup=mixup, architecture=architecture, **SMALL,
    )
    for preset, augmentation, mixup, architecture in (
        ("best", "strong", 1.0, "residual"), ("best", "strong", 0.5, "textbook"),
        ("textbook", "book", 0.5, "textbook"), ("record", "none", 0.0, "textbook"),
    )
]  # fmt: skip
AUGMENTED += [
    dataclasses.replace(FEATURE_EXTRACT["textbook"], variant="end_to_end", **SMALL),
]


class CapturedError(Exception):
    """Ends a stage where training would begin."""


def batches_of(dataset):
    return (np.concatenate(parts) for parts in zip(*dataset.as_numpy_iterator(), strict=True))


@pytest.mark.parametrize("config", AUGMENTED, ids=lambda c: f"{c.preset}-{type(c).__name__}")
def test_validation_pictures_are_never_augmented(
    config, data_dir, vgg16_weights, tmp_path, monkeypatch
):
    def capture(model, train, validation, **_):
        raise CapturedError(train, validation)

    monkeypatch.setattr(stage_run.training, "fit", capture)
    is_scratch = isinstance(config, type(SCRATCH["best"]))
    stage = stages.train_scratch if is_scratch else stages.train_feature_extract
    with pytest.raises(CapturedError) as caught:
        stage(config, data_dir, tmp_path / "run")
    train, validation = caught.value.args
    found, targets = batches_of(validation)
    files = load_manifest(data_dir).split("validation")
    expected = np.stack([decode_image(data_dir / file.name, 48) for file in files])
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    np.testing.assert_array_equal(targets[:, 0], [file.class_index for file in files])
    # The training pictures are, where the settings say so.
    training = np.stack(
        [decode_image(data_dir / file.name, 48) for file in load_manifest(data_dir).split("train")]
    )
    batch = next(train.as_numpy_iterator())[0]
    as_they_are = batch.shape[1] == 48 and all(
        (training == image.round()).all(axis=(1, 2, 3)).any() for image in batch
    )
    assert as_they_are == (getattr(config, "augmentation", "book") == "none")


@pytest.fixture(scope="module")
def run_dir(data_dir, tmp_path_factory):
    """A finished run whose training pictures were varied in every way."""
    config = dataclasses.replace(AUGMENTED[1], epochs=1)
    return stages.train_scratch(config, data_dir, tmp_path_factory.mktemp("honest") / "run")[0]


def test_test_pictures_are_never_augmented(run_dir, data_dir, tmp_path, monkeypatch):
    seen = []

    def record(arrays, targets, *, batch_size, mirror=False):
        dataset = pipeline.evaluation_batches(arrays, targets, batch_size=batch_size, mirror=mirror)
        seen.append((mirror, *batches_of(dataset)))
        return dataset

    monkeypatch.setattr(evaluate_run, "evaluation_batches", record)
    evaluate_run.evaluate(shutil.copytree(run_dir, tmp_path / "run"), flip=True)
    files = load_manifest(data_dir).split("test")
    expected = np.stack([decode_image(data_dir / file.name, 48) for file in files])
    assert [mirror for mirror, *_ in seen] == [False, True]
    for mirror, found, targets in seen:
        wanted = expected[:, :, ::-1] if mirror else expected
        np.testing.assert_array_equal(found, wanted.astype(np.float32))
        np.testing.assert_array_equal(targets[:, 0], [file.class_index for file in files])


# ---- Every label stays with its picture ----


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_decoding_keeps_the_order(workers, data_dir, tmp_path, monkeypatch):
    """However many threads there are and whichever ends first."""
    data = shutil.copytree(data_dir, tmp_path / "data", ignore=shutil.ignore_patterns("decoded"))
    rng = random.Random(workers)

    def slowly(content, image_size=None):
        time.sleep(0.003 * rng.random())
        return decode_image(content, image_size)

    monkeypatch.setattr(images_module, "decode_image", slowly)
    monkeypatch.setattr(os, "cpu_count", lambda: workers)
    manifest = load_manifest(data)
    found, labels = load_split(data, manifest, "train", 48)
    for image, label, file in zip(found, labels, manifest.split("train"), strict=True):
        np.testing.assert_array_equal(image, decode_image(data / file.name, 48))
        assert manifest.classes[label] == file.name.split("/")[1]
    delays = [rng.random() for _ in range(99)]
    slow = map_pictures(lambda i: (time.sleep(0.003 * delays[i]), i)[1], range(99))
    assert list(slow) == list(range(99))


@st.composite
def batch_plans(draw):
    num_classes = draw(st.integers(2, 3))
    labels = draw(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=24))
    epochs = draw(st.integers(1, 3))
    return {
        "labels": labels, "num_classes": num_classes,
        "batch_size": draw(st.integers(1, 30)), "epochs": epochs,
        "initial_epoch": draw(st.integers(0, epochs - 1)), "seed": draw(st.integers(0, 2**31 - 1)),
    }  # fmt: skip


@fewer(8)
@hypothesis.given(
    plan=batch_plans(),
    augmentation=st.sampled_from(["none", "book", "strong"]),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    crop=st.integers(4, 8),
)
def test_labels_stay_with_their_images(plan, augmentation, share, crop):
    """Class c fills its channel, so whatever the batch shows must be its target."""
    labels, num_classes = plan.pop("labels"), plan.pop("num_classes")
    images = np.zeros((len(labels), 8, 8, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[..., label] = 255
    dataset = pipeline.image_batches(
        images, pipeline.encode_labels(labels, num_classes), augmentation=augmentation,
        mixup_share=share, crop_sizes=[crop] * plan["epochs"], **plan,
    )  # fmt: skip
    found, targets = batches_of(dataset)
    assert len(found) == len(labels) * (plan["epochs"] - plan["initial_epoch"])
    shown = found.mean(axis=(1, 2))[:, :num_classes]
    wanted = np.concatenate([1 - targets, targets], axis=1) if num_classes == 2 else targets
    if augmentation == "strong":  # colours change a little: compare those that are unblended
        sure = wanted.max(axis=1) == 1
        np.testing.assert_array_equal(shown[sure].argmax(axis=1), wanted[sure].argmax(axis=1))
    else:
        np.testing.assert_allclose(shown / 255, wanted, atol=1e-3)
    if not share:  # every image once an epoch
        for epoch in np.split(wanted, plan["epochs"] - plan["initial_epoch"]):
            counts = np.bincount(labels, minlength=num_classes)
            np.testing.assert_array_equal(epoch.sum(axis=0), counts)


@pytest.mark.parametrize("way", ["in memory", "from the disk", "evaluation"])
@fewer(4)
@hypothesis.given(plan=batch_plans(), num_views=st.integers(1, 4), seed=st.integers(0, 999))
def test_labels_stay_with_their_features(way, plan, num_views, seed):
    """A row of features holds the image's number, so its target must be that image's label."""
    num_classes, number = plan.pop("num_classes"), 20 + len(plan.pop("labels"))
    labels = np.random.default_rng(seed).integers(0, num_classes, number)
    rows = np.arange(number, dtype=np.float16)
    views = [np.stack([rows, np.full(number, v)], axis=1).astype("f2") for v in range(num_views)]
    targets = pipeline.encode_labels(labels, num_classes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_IN_MEMORY", 0 if way == "from the disk" else 2**28)
        if way == "evaluation":
            dataset = pipeline.evaluation_batches(views[0], targets, batch_size=plan["batch_size"])
        else:
            dataset = pipeline.feature_batches(views, targets, **plan)
        found, given = batches_of(dataset)
    index = found[:, 0].astype(int)
    np.testing.assert_array_equal(given, targets[index])
    epochs = 1 if way == "evaluation" else plan["epochs"] - plan["initial_epoch"]
    for epoch in np.split(index, epochs):
        np.testing.assert_array_equal(epoch if way == "evaluation" else np.sort(epoch), rows)


def test_rows_of_the_feature_store_are_the_pictures(data_dir, vgg16_weights, tmp_path):
    conv_base = models.build_vgg16_base(32, "average", vgg16_weights)
    manifest = load_manifest(data_dir)
    images, labels = load_split(data_dir, manifest, "train", 32)
    store = FeatureStore(tmp_path, conv_base, dataset_digest="d", precision="float32")
    rows = np.float32(store.features(images, "train"))
    for number in (0, 1, 31, 32, 63):  # both ends, and where a batch begins
        file = manifest.split("train")[number]
        alone = conv_base.predict_on_batch(np.float32(decode_image(data_dir / file.name, 32)[None]))
        assert np.abs(rows - alone).sum(axis=1).argmin() == number
        assert labels[number] == file.class_index


@pytest.mark.parametrize("num_classes", [2, 3])
def test_predictions_stay_with_their_files(
    num_classes, run_dir, three_classes, data_dir, tmp_path, request
):
    if num_classes == 2:
        run, data = shutil.copytree(run_dir, tmp_path / "run"), data_dir
    else:
        config, data = dataclasses.replace(AUGMENTED[1], epochs=1), three_classes
        run = stages.train_scratch(config, data, tmp_path / "run")[0]
    evaluate_run.evaluate(run)
    saved = load_saved_model(run)
    with open(run / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    answers = []
    for row in rows:
        (alone,) = predict_images(saved, decode_image(data / row["file"], 48)[None])
        given = [float(row[f"probability_of_{name}"]) for name in saved.classes]
        np.testing.assert_allclose(given, alone, atol=2e-4)
        assert row["label"] == row["file"].split("/")[1]
        answers.append(given)
    assert len(np.unique(answers, axis=0)) > len(rows) / 2  # or a mix-up would go unnoticed


# ---- The figures are right ----


@st.composite
def predictions(draw, max_classes=5):
    """Labels and probabilities in steps of 1/1024: exact sums, and many ties."""
    num_classes, number = draw(st.integers(2, max_classes)), draw(st.integers(1, 200))
    steps = draw(st.sampled_from([4, 32, 1024]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.multinomial(steps, rng.dirichlet(np.full(num_classes, 0.5), number)) / steps
    return rng.integers(0, num_classes, number), rows


@hypothesis.given(predictions())
def test_figures_agree_with_scikit_learn(made):
    labels, probabilities = made
    num_classes = probabilities.shape[1]
    every, guesses = list(range(num_classes)), probabilities.argmax(axis=1)
    report = evaluate_predictions(labels, probabilities, list("abcde")[:num_classes])
    assert report["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, guesses))
    matrix = sklearn_metrics.confusion_matrix(labels, guesses, labels=every)
    assert report["confusion_matrix"] == matrix.tolist()
    clipped = np.clip(probabilities[range(len(labels)), labels], 1e-7, 1 - 1e-7)
    assert report["loss"] == pytest.approx(-np.log(clipped).mean())
    if probabilities.min() > 0:
        expected = sklearn_metrics.log_loss(labels, probabilities, labels=every)
        assert report["loss"] == pytest.approx(expected)
    precision, recall, _, counts = sklearn_metrics.precision_recall_fscore_support(
        labels, guesses, labels=every, zero_division=0
    )
    found = confusion_matrix(labels, guesses, num_classes)
    np.testing.assert_allclose(found.diagonal() / found.sum(axis=0).clip(1), precision)
    for name, share, count in zip(report["class_names"], recall, counts, strict=True):
        given = report["per_class_accuracy"][name]
        assert given is None if count == 0 else given == pytest.approx(share)
    if set(labels) == set(every):
        areas = [
            sklearn_metrics.roc_auc_score(labels == index, probabilities[:, index])
            for index in ((1,) if num_classes == 2 else every)
        ]
        assert report["roc_auc"] == pytest.approx(np.mean(areas))
    else:
        assert report["roc_auc"] is None


@hypothesis.given(predictions(max_classes=2))
def test_roc_agrees_with_scikit_learn_whatever_the_ties(made):
    labels, scores = made[0], made[1][:, 1]
    hypothesis.assume(0 < labels.sum() < len(labels))
    expected = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False)[:2]
    np.testing.assert_allclose(roc_curve(labels, scores), expected, atol=1e-12)
    assert roc_auc(labels, scores) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores))


@hypothesis.given(predictions(), st.integers(1, 20))
def test_calibration_error_agrees_with_its_definition(made, num_bins):
    labels, probabilities = made
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    total = 0
    for low in range(num_bins):  # the last bin is closed, the others are half open
        inside = (confidence * num_bins >= low) & (
            (confidence * num_bins < low + 1) | (low == num_bins - 1)
        )
        total += abs(confidence[inside].sum() - right[inside].sum())
    found = expected_calibration_error(labels, probabilities, num_bins)
    assert found == pytest.approx(total / len(labels), abs=1e-9)


@hypothesis.given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_mcnemar_agrees_with_scipy(pairs):
    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    only_first = sum(a and not b for a, b in pairs)
    only_second = sum(b and not a for a, b in pairs)
    found = mcnemar_test(first, second)
    assert (found["only_first"], found["only_second"]) == (only_first, only_second)
    number = only_first + only_second
    expected = stats.binomtest(only_first, number).pvalue if number else 1
    assert found["p_value"] == pytest.approx(expected)


@hypothesis.given(st.integers(1, 5000), st.floats(0, 1), st.floats(0.5, 0.999))
def test_wilson_agrees_with_scipy_everywhere(total, share, confidence):
    successes = round(share * total)
    expected = stats.binomtest(successes, total).proportion_ci(confidence, method="wilson")
    found = wilson_interval(successes, total, confidence)
    np.testing.assert_allclose(found, [expected.low, expected.high], atol=1e-12)


@hypothesis.given(predictions(), st.floats(0.1, 10))
def test_a_temperature_changes_no_answer(made, temperature):
    labels, probabilities = made
    scaled = apply_temperature(probabilities, temperature)
    np.testing.assert_allclose(scaled.sum(axis=1), 1)
    np.testing.assert_array_equal(scaled.argmax(axis=1), probabilities.argmax(axis=1))
    # Within a picture no class overtakes another, and of two classes no picture another.
    order = np.take_along_axis(scaled, probabilities.argsort(axis=1, kind="stable"), axis=1)
    assert (np.diff(order, axis=1) >= 0).all()
    if probabilities.shape[1] == 2:
        assert (np.diff(scaled[probabilities[:, 1].argsort(), 1]) >= 0).all()
    report, before = (
        evaluate_predictions(labels, found, list("abcde")[: found.shape[1]])
        for found in (scaled, probabilities)
    )
    assert report["confusion_matrix"] == before["confusion_matrix"]
