"""Cross-validation of a head on cached features: accuracy on pictures it was not trained on."""

import dataclasses
import math
import pathlib
import time

import keras
import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from catsdogs.config import shrink
from catsdogs.console import Progress
from catsdogs.data.batches import encode_labels, evaluation_batches, feature_batches
from catsdogs.data.images import load_split
from catsdogs.data.manifest import find_data_dir, load_manifest
from catsdogs.errors import InputError
from catsdogs.evaluation.metrics import class_probabilities
from catsdogs.evaluation.significance import summarize_seeds
from catsdogs.files import read_json, write_json
from catsdogs.models.backbones import build_base, build_head, find_backbone, freeze
from catsdogs.models.engine import choose_engine
from catsdogs.models.fused_norm import training_copy
from catsdogs.stages.evaluate import load_test_split
from catsdogs.stages.feature_extract import with_image_size
from catsdogs.stages.features import FeatureStore
from catsdogs.stages.optimization import build_loss, build_optimizer, choose_precision
from catsdogs.stages.run import describe_environment, subset

__all__ = ["add_result", "cross_validate"]


def cross_validate(config, data_dir=None, *, folds=5, repeats=1, include_test=False):
    """Trains a head on all folds but one and measures it on that one, for each fold in turn.

    Every picture is predicted once in each repeat, by a head that was not trained on it or on a
    near-duplicate of it. No epoch is chosen: the head of the last one counts.

    Args:
        config: A `FeatureExtractConfig` of the variant `cached`.
        data_dir: A prepared dataset, or `None` for the one that `find_data_dir` finds.
        folds: Parts that the pictures are divided into, 2 or more.
        repeats: Number of repetitions, each with new folds and initial weights.
        include_test: Whether to use the test pictures as well as those of training and validation:
            for final figures, never to compare settings.

    Returns:
        A JSON-ready dictionary: settings, `n` pictures, `accuracy` and its 95 % `interval95`, `std`
        over repeats (`None` for one), `accuracies`, `seconds` and `processor`.

    Raises:
        InputError: If the dataset, the settings or the weights cannot be used.

    Reference:
        Kohavi, "A study of cross-validation and bootstrap for accuracy estimation and model
        selection", IJCAI 1995.
    """
    started = time.perf_counter()
    config = with_image_size(shrink(config) if config.smoke else config)
    if config.variant != "cached":
        raise InputError(f"Expected --variant cached. Received: {config.variant}.")
    data_dir = find_data_dir(data_dir)
    manifest = load_manifest(data_dir)
    precision = choose_precision(config.precision)
    conv_base = build_base(
        config.backbone, config.image_size, config.pooling, config.backbone_weights
    )
    freeze(conv_base)
    backbone = find_backbone(config.backbone, config.cut)
    store = FeatureStore(
        data_dir / "features",
        conv_base,
        backbone.cut,
        dataset_digest=manifest.digest,
        precision=precision,
        engine=choose_engine(config.engine, backbone.engine, precision),
    )
    splits = ("train", "validation", "test") if include_test else ("train", "validation")
    names, features, labels = [], [], []
    for split in splits:
        if split == "test":
            images, found = load_test_split(data_dir, manifest, config.image_size)
        else:
            images, found = load_split(data_dir, manifest, split, config.image_size)
        files = manifest.split(split)
        if config.smoke:
            images, found, files = (subset(rows, split) for rows in (images, found, files))
        features.append(store.features(images, split))
        labels.append(found)
        names += [file.name for file in files]
    features, labels = np.concatenate(features), np.concatenate(labels)
    # Near-duplicates belong in one fold.
    first = {name: group[0] for group in manifest.near_duplicates for name in group}
    groups = np.unique([first.get(name, name) for name in names], return_inverse=True)[1]
    smallest = np.bincount(labels).min()
    if folds > smallest:
        raise InputError(
            f"Expected --folds of at most {smallest}, the pictures of the smallest class. "
            f"Received: {folds}."
        )
    accuracies = [
        _out_of_fold(config, features, labels, groups, folds, seed)
        for seed in range(config.seed, config.seed + repeats)
    ]
    environment = describe_environment()
    summary = summarize_seeds(accuracies, len(labels))
    return {
        "backbone": config.backbone,
        "image_size": config.image_size,
        "config": dataclasses.asdict(config),
        "folds": folds,
        "repeats": repeats,
        "splits": list(splits),
        "n": len(labels),
        "accuracy": summary["mean"],
        "interval95": summary["interval95"],
        "std": summary["std"],
        "accuracies": accuracies,
        "seconds": round(time.perf_counter() - started, 1),
        "cold": not store.reused,
        "precision": precision,
        "engine": store.engine,
        "processor": environment["processor"],
        "commit": environment["commit"],
    }


def add_result(path, result):
    """Adds a result to a JSON list of them, in place of an earlier one with the same settings.

    Raises:
        InputError: If the file holds something else.
    """
    kept = read_json(path, list[dict]) if pathlib.Path(path).exists() else []
    settings = ("config", "folds", "repeats", "n", "cold", "processor")
    same = [result[name] for name in settings]
    kept = [one for one in kept if [one.get(name) for name in settings] != same]
    write_json(path, [*kept, result])


def _out_of_fold(config, features, labels, groups, folds, seed):
    """Accuracy of the predictions for every row by the head that was not trained on it."""
    num_classes = int(labels.max()) + 1
    targets = encode_labels(labels, num_classes)
    is_correct = np.empty(len(labels), bool)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with Progress(f"Cross-validating, seed {seed}", folds, "folds") as progress:
        parts = enumerate(splitter.split(features, labels, groups), start=1)
        for number, (rows, held_out) in parts:
            keras.utils.set_random_seed(seed)
            head = build_head(
                features.shape[1:],
                config.units,
                config.dropout,
                normalize=config.normalize,
                num_classes=num_classes,
            )
            trained = training_copy(head)
            steps_per_epoch = math.ceil(len(rows) / config.batch_size)
            trained.compile(
                optimizer=build_optimizer(config, config.epochs * steps_per_epoch),
                loss=build_loss(num_classes, config.label_smoothing),
                steps_per_execution=steps_per_epoch,
            )
            batches = feature_batches(
                [features[rows]],
                targets[rows],
                batch_size=config.batch_size,
                epochs=config.epochs,
                seed=seed,
            )
            trained.fit(
                batches,
                epochs=config.epochs,
                steps_per_epoch=steps_per_epoch,
                shuffle=False,  # the batches are shuffled already
                verbose=0,
            )
            outputs = trained.predict(
                evaluation_batches(features[held_out], targets[held_out]), verbose=0
            )
            predicted = class_probabilities(outputs).argmax(axis=1)
            is_correct[held_out] = predicted == labels[held_out]
            progress.update(number)
    return float(is_correct.mean())
