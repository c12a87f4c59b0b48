"""What must stand in the files of a run and in the evidence, wherever something reads it."""

from catsdogs.fields import (
    CLASSES,
    FLAG,
    FRACTION,
    INTERVAL,
    NAME,
    PATH,
    TEXT,
    number,
    one_of,
    or_none,
    whole,
)

__all__ = ["BENCHMARK", "CONFIG", "ENVIRONMENT", "EVIDENCE", "GROWTH", "METRICS"]

_STAGES = ("scratch", "feature_extract", "finetune")
_MEASURED = {
    "num_images": whole(1),
    "loss": number(0),
    "accuracy": FRACTION,
    "accuracy_interval95": INTERVAL,
}
ENVIRONMENT = {
    "commit": or_none(TEXT),
    "packages": {},
    "processor": TEXT,
    "cores": whole(1),
    "resumed?": [{}],
}

CONFIG = {"stage": one_of(*_STAGES), "data_dir": PATH, "smoke": FLAG}

# What every version of this project has written; these runs stay as evidence.
_EARLIER = {
    "stage": one_of(*_STAGES),
    "preset": NAME,
    "variant": NAME,
    "dataset": NAME,
    "dataset_digest": NAME,
    "drawings": FLAG,
    "classes": CLASSES,
    "image_size": whole(8, 2048),
    "precision": NAME,
    "config": {"seed": whole(0), "smoke": FLAG},
    "start_changes?": {},
    "num_parameters": whole(1),
    "num_trainable": whole(0),
    "validation": _MEASURED,
    "cold": FLAG,
    "warm": FLAG,
    "wall_seconds": number(0),
    "peak_rss_mb": number(0),
    "environment": ENVIRONMENT,
}
METRICS = {
    **_EARLIER,
    "best_epoch": whole(1),
    "temperature": number(1e-6, 1e6),
    "test?": _MEASURED,
    "test_flip?": _MEASURED,
}
EVIDENCE = {**_EARLIER, "test": _MEASURED, "test_flip?": _MEASURED}

_SCALED = {"seconds_scaled": number(0)}
BENCHMARK = {
    "quick": FLAG,
    "dataset": NAME,
    "environment": ENVIRONMENT,
    "book": dict.fromkeys(_STAGES, _SCALED),
}
_STEP = {"seconds": number(0), "peak_rss_mb": number(0)}
GROWTH = {
    "environment": ENVIRONMENT,
    "rows": [
        {
            "num_images": whole(1),
            **dict.fromkeys(("prepare", "decode", "extract", "head", "convnet"), _STEP),
        }
    ],
}
