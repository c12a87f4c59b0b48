"""Image classification from a small labelled set of photographs.

The public functions, each imported when it is first used, so that `import catsdogs` is light:

    import catsdogs

    run_dir, metrics = catsdogs.train_scratch(catsdogs.ScratchConfig(epochs=5))
    catsdogs.evaluate(run_dir)["test"]["accuracy"]
"""

import importlib
from typing import TYPE_CHECKING

_MODULES = {
    "config": ("FEATURE_EXTRACT", "FINETUNE", "SCRATCH", "FeatureExtractConfig", "FinetuneConfig",
               "ScratchConfig"),
    "data.images": ("decode_image", "load_split"),
    "data.manifest": ("find_data_dir", "load_manifest"),
    "data.sources": ("open_pictures",),
    "data.splits": ("prepare",),
    "errors": ("InputError",),
    "evaluation.plots": ("plot_confusion_matrix", "plot_history", "plot_image_grid", "save_figure"),
    "files": ("read_history",),
    "inference.explain": ("activations", "grad_cam", "maximize_filters", "occlusion_sensitivity"),
    "inference.export": ("export_model",),
    "inference.predict": ("predict_images", "predict_pictures"),
    "models.backbones": ("build_base", "build_classifier", "build_head", "freeze",
                         "unfreeze_after"),
    "models.convnets": ("build_residual_convnet", "build_textbook_convnet"),
    "models.model_file": ("load_saved_model", "save_model"),
    "stages.cross_validate": ("cross_validate",),
    "stages.evaluate": ("evaluate",),
    "stages.feature_extract": ("train_feature_extract",),
    "stages.finetune": ("finetune",),
    "stages.run": ("load_run",),
    "stages.scratch": ("train_scratch",),
}  # fmt: skip
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)

if TYPE_CHECKING:  # the same names, for editors and type checkers
    from catsdogs.config import (
        FEATURE_EXTRACT,
        FINETUNE,
        SCRATCH,
        FeatureExtractConfig,
        FinetuneConfig,
        ScratchConfig,
    )
    from catsdogs.data.images import decode_image, load_split
    from catsdogs.data.manifest import find_data_dir, load_manifest
    from catsdogs.data.sources import open_pictures
    from catsdogs.data.splits import prepare
    from catsdogs.errors import InputError
    from catsdogs.evaluation.plots import (
        plot_confusion_matrix,
        plot_history,
        plot_image_grid,
        save_figure,
    )
    from catsdogs.files import read_history
    from catsdogs.inference.explain import (
        activations,
        grad_cam,
        maximize_filters,
        occlusion_sensitivity,
    )
    from catsdogs.inference.export import export_model
    from catsdogs.inference.predict import predict_images, predict_pictures
    from catsdogs.models.backbones import (
        build_base,
        build_classifier,
        build_head,
        freeze,
        unfreeze_after,
    )
    from catsdogs.models.convnets import build_residual_convnet, build_textbook_convnet
    from catsdogs.models.model_file import load_saved_model, save_model
    from catsdogs.stages.cross_validate import cross_validate
    from catsdogs.stages.evaluate import evaluate
    from catsdogs.stages.feature_extract import train_feature_extract
    from catsdogs.stages.finetune import finetune
    from catsdogs.stages.run import load_run
    from catsdogs.stages.scratch import train_scratch


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'catsdogs' has no attribute {name!r}")
    return getattr(importlib.import_module(f"catsdogs.{_HOME[name]}"), name)


def __dir__():
    return __all__
