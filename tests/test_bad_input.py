"""What a user may get wrong: the command says so in one line, exits with 2 and changes nothing."""

import errno
import os
import re
import shutil
import sys
import zipfile

import filelock
import pytest
from conftest import METRICS
from hostile_files import edit_model, png, raw_zip
from pictures import contents, encode, noise_picture, pets, write_files

from catsdogs import cli
from catsdogs.config import FEATURE_EXTRACT
from catsdogs.data.manifest import load_manifest
from catsdogs.data.sources import open_source
from catsdogs.data.splits import prepare
from catsdogs.files import write_json
from catsdogs.models.convnets import build_textbook_convnet
from catsdogs.models.model_file import save_model


def write_data(home):
    write_files(home / "pets", pets())
    write_files(home / "cats", {"cat/1.jpg": encode(noise_picture(1), "JPEG")})
    for name, train in (("data", 4), ("other-data", 2)):
        with open_source(home / "pets") as source:
            prepare(source, home / name, train=train, validation=2, test=2)
    shutil.copytree(home / "data", home / "damaged-data")
    (home / "damaged-data" / "manifest.json").write_text('{"format": 1}')
    shutil.copytree(home / "data", home / "edited-data")
    for path in (home / "edited-data").glob("*/cat/*.jpg"):
        path.write_bytes(encode(noise_picture(99), "JPEG"))

    with zipfile.ZipFile(home / "cut.zip", "w") as archive:
        for path in (home / "pets").rglob("*.jpg"):
            archive.write(path, path.relative_to(home))
    (home / "cut.zip").write_bytes((home / "cut.zip").read_bytes()[:3000])
    claims = {"data": b"x" * 99, "method": 8, "size": 2**32 - 2}
    entries = [{"name": b"cat/1.png", **claims}, {"name": b"dog/1.png", **claims}]
    (home / "bomb.zip").write_bytes(raw_zip(entries))

    (home / "photo.jpg").write_bytes(encode(noise_picture(5), "JPEG"))
    (home / "bomb.png").write_bytes(png(20_000, 20_000, rows=1))
    (home / "notes.txt").write_text("no picture")
    (home / "empty").mkdir()


def write_models(home):
    model = build_textbook_convnet(48)
    save_model(model, home / "m.keras", classes=("cat", "dog"), image_size=48, temperature=1.0)
    model.save(home / "plain.keras")
    content = (home / "m.keras").read_bytes()
    (home / "cut.keras").write_bytes(content[:5000])

    def add_code(config):
        layer = next(x for x in config["config"]["layers"] if x["class_name"] == "Rescaling")
        layer.update(class_name="Lambda", registered_name=None)
        return config

    edit_model(content, home / "code.keras", config=add_code)


def write_runs(home):
    digest = load_manifest(home / "data").digest
    config = {"stage": "scratch", "data_dir": "data", "smoke": False}
    head = {**config, "stage": "feature_extract", **vars(FEATURE_EXTRACT["best"])}
    for name, changes in {
        "run": {},
        "other-head": {"stage": "feature_extract", "config": head, "dataset_digest": "other"},
        "smoke-head": {"stage": "feature_extract", "config": {**head, "smoke": True}},
    }.items():
        write_json(home / name / "config.json", config)
        metrics = METRICS | {"dataset_digest": digest, "classes": ["cat", "dog"], **changes}
        write_json(home / name / "metrics.json", metrics)
        shutil.copy(home / "m.keras", home / name / "model.keras")
    shutil.copytree(home / "run", home / "damaged-run")
    (home / "damaged-run" / "metrics.json").write_text("[" * 10**5)
    write_json(home / "interrupted" / "config.json", config)
    history = "epoch,loss,accuracy,val_loss,val_accuracy\n1,1,1,1,1\n"
    (home / "interrupted" / "history.csv").write_text(history)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with good and bad pictures, datasets, models and runs."""
    home = tmp_path_factory.mktemp("home")
    write_data(home)
    write_models(home)
    write_runs(home)
    return home


def files_in(folder):
    """All files but locks, `{path: content}`."""
    return {name: data for name, data in contents(folder).items() if name.suffix != ".lock"}


BAD_INPUT = [
    # Pictures to prepare.
    ("prepare_data --sketchs", r"--sketchs\. Perhaps you meant --sketches\. See --help"),
    ("prepare_data --folder pets --train 0", r"--train should be .* 1, received 0\. See --help"),
    ("prepare_data --folder pets --train many", "--train.*'many'"),
    ("prepare_data --folder pets --train 3", r"multiples of 2.*Received: --train 3"),
    ("prepare_data --folder pets --sketches", "Expected one of --archive, --folder and --sketches"),
    ("prepare_data --folder pets", r"Received: cat 6 of 6 files.* ask for fewer with --train"),
    ("prepare_data --folder cats", "Expected two or more folders in .*cats"),
    ("prepare_data --folder missing", "Expected an archive or a folder at .*missing, found none"),
    ("prepare_data --archive missing.zip", "Expected an archive .*missing.zip, found none"),
    ("prepare_data --archive notes.txt", "Expected a complete zip archive .*not a zip file"),
    ("prepare_data --archive cut.zip", "complete zip archive .*cut.zip.* Download it again"),
    ("prepare_data --archive bomb.zip", "a zip bomb, .*Nothing was unpacked"),
    ("prepare_data --folder pets --data-dir run", "hold nothing but a prepared dataset.*config"),
    ("prepare_data --folder pets --data-dir data", r"received pets \(4 train.*--overwrite"),
    ("prepare_data --folder pets --data-dir damaged-data", "dataset is missing.*--overwrite"),
    ("prepare_data --folder pets --data-dir pets/cat", "Expected --data-dir apart from the pict"),
    # Settings, dataset and folder of a run.
    ("train_scratch --learning-rat=1", r"--learning-rat=1.*Perhaps you meant --learning-rate"),
    ("train_scratch --epochs many", "--epochs.*'many'"),
    ("train_scratch --image-size 20", "--image-size should be .* 32, received 20"),
    ("train_scratch --learning-rate nan", "--learning-rate should be .* 10, received nan"),
    ("train_scratch --preset worst", "'worst'.*Expected one of.*'record'"),
    ("train_scratch --augmentation heavy", "'heavy'.*Expected one of.*'strong'"),
    ("train_scratch", r"a prepared dataset in data/.*prepare_data\.py"),
    ("train_scratch --data-dir missing", r"missing/manifest\.json, found none.*prepare_data\.py"),
    ("train_scratch --data-dir damaged-data", r"damaged-data/manifest\.json: dataset is missing"),
    ("train_scratch --data-dir edited-data", r"\.jpg as it was prepared. Received: other content"),
    ("train_scratch --data-dir data --run-dir pets", "other files in pets. Choose another --run"),
    ("train_scratch --data-dir data --run-dir interrupted", "interrupted run.* Add --resume"),
    (
        "train_scratch --data-dir data --run-dir interrupted --resume",
        r"other settings: .*epochs=None \(not 110\).* Give the same flags again",
    ),
    ("train_scratch --data-dir data --run-dir notes.txt/run", "notes.txt.*choose another path"),
    ("train_feature_extract --data-dir data --backbone resnet", r"out of vgg16.*Received: resnet"),
    (
        "train_feature_extract --data-dir data --backbone-weights missing.h5",
        "--backbone-weights=missing.h5. Correct",
    ),
    ("finetune --data-dir data --start missing", "Expected a finished run at missing"),
    ("finetune --data-dir data --start interrupted", "no metrics.json.*--resume"),
    ("finetune --data-dir data --start run", "a feature extraction, received run: scratch"),
    ("finetune --data-dir data --start other-head", "other pictures.*may have seen test pictures"),
    ("finetune --data-dir data --start smoke-head", "a full run, received smoke-head"),
    # Runs to measure and to draw.
    ("evaluate", "at least one finished run. Received: none. Example: runs"),
    ("evaluate missing", "at least one finished run. Received: missing"),
    ("evaluate interrupted", "at least one finished run. Received: interrupted"),
    ("evaluate damaged-run", r"damaged-run/metrics\.json: not JSON.* Train the run again"),
    ("evaluate run --data-dir missing", r"missing/manifest\.json, found none"),
    ("evaluate run --data-dir other-data", "not the dataset that run was trained on.*train again"),
    ("plot_history", "at least one run, received none"),
    ("plot_history run", r"run/history\.csv, found none"),
    ("plot_history interrupted --smoothing 1", "--smoothing should be less than 1, received 1"),
    ("plot_history interrupted --output curves.docx", r"\.png or \.jpg\. Received: curves\.docx"),
    # Models and pictures from anywhere.
    ("predict", "RUN_OR_MODEL"),
    ("predict missing photo.jpg", r"missing/model\.keras, found none\. Correct the path"),
    ("predict interrupted photo.jpg", "The run was interrupted.*--resume"),
    ("predict notes.txt photo.jpg", r"a run folder or a \.keras file\. Received: notes\.txt"),
    ("predict cut.keras photo.jpg", "cut.keras, received one that cannot be used: .*not a zip"),
    ("predict plain.keras photo.jpg", "plain.keras, received one .*no item named 'catsdogs.json'"),
    ("predict code.keras photo.jpg", "layers.Lambda, which is not known to be safe.* another one"),
    ("predict m.keras", "Expected pictures: .*Received: none"),
    ("predict m.keras empty", "Expected pictures: .*Received: empty"),
    ("predict m.keras photo.jpg --threshold 7", "--threshold should be .* 1, received 7"),
    ("explain m.keras missing.jpg", "a picture at missing.jpg. Received: No such file"),
    ("explain m.keras notes.txt", "Received: not a JPEG, PNG"),
    ("explain m.keras bomb.png", "bomb.png. Received: too large a picture"),
    ("explain m.keras photo.jpg --target owl", r"one of cat, dog\. Received: owl"),
    ("explain m.keras photo.jpg --layers conv9", r"out of .*conv1.* Received: conv9"),
    ("explain m.keras photo.jpg --channels 0", "--channels should be .* 1, received 0"),
    ("export pets", r"pets/model\.keras, found none\. Correct the path"),
    ("export m.keras", r"config\.json, found none\. Name some pictures with --pictures"),
    ("export m.keras --pictures notes.txt", "none that can be read. Name some with --pictures"),
    ("export run --output pets", "an earlier export at pets.* Choose another --output"),
    ("export run --format caffe", "'caffe'.*Expected one of.*'onnx'"),
    ("demo", r"a finished run .*runs/\*/\*/, found none.*train_scratch\.py"),
    ("demo cut.keras", "cut.keras, received one that cannot be used"),
    ("train_scratch --image-size 96", "--crop-size should be at most --image-size, received 160"),
    ("demo m.keras --threshold 7", "--threshold should be .* 1, received 7"),
]


def call(line, monkeypatch):
    """Runs a command in this process; returns its exit code."""
    command, *words = line.split()
    monkeypatch.setattr(sys, "argv", [f"{command}.py", *words])
    with pytest.raises(SystemExit) as stop:
        getattr(cli, command)()
    return stop.value.code


@pytest.mark.parametrize(("line", "message"), BAD_INPUT, ids=[line for line, _ in BAD_INPUT])
def test_bad_input_is_one_line_and_changes_nothing(line, message, home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    before = files_in(home)
    assert call(line, monkeypatch) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"{line.split()[0]}: ") and re.search(message, error), error
    assert error.isprintable() and len(error) < 1200
    assert files_in(home) == before


def test_pictures_that_cannot_be_read_are_named_and_skipped(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    line = "predict m.keras missing.jpg bomb.png photo.jpg notes.txt --format csv"
    assert call(line, monkeypatch) == 1
    output = capsys.readouterr()
    _, answer = output.out.splitlines()
    assert answer.startswith("photo.jpg,")
    errors = [line for line in output.err.splitlines() if line.startswith("predict: ")]
    problems = ["No such file", "too large a picture", "not a JPEG", "3 of 4 files skipped"]
    assert all(part in error for part, error in zip(problems, errors, strict=True))


@pytest.mark.parametrize(
    "line",
    [
        "train_scratch --data-dir data --run-dir new",
        "prepare_data --folder pets --data-dir new --train 4 --validation 2 --test 2",
    ],
)
def test_a_folder_in_use_is_left_alone(line, home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    before = files_in(home)
    with filelock.FileLock(home / ".new.lock"):  # as another process has it
        assert call(line, monkeypatch) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "another process is using it. Wait until it has finished" in error
    assert files_in(home) == before


def test_a_full_disk_is_one_line_and_leaves_no_file(home, monkeypatch, capsys):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.chdir(home)
    monkeypatch.setattr(os, "fsync", fail)
    before = files_in(home)
    assert call("plot_history interrupted", monkeypatch) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("plot_history: No space left on device")
    assert files_in(home) == before
