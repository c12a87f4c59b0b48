"""Pretrained backbones, each described by one record, and the classifiers built on them.

Adding a backbone takes a function that builds it, one that loads its weights, and a record in
`BACKBONES`; no other module names one.
"""

import dataclasses
from collections.abc import Callable

import keras
from keras import layers

from catsdogs.errors import InputError
from catsdogs.models.convnets import probability_layer
from catsdogs.models.weights import VGG16_DIGEST, digest_tensors, load_vgg16_weights

__all__ = [
    "BACKBONES",
    "Backbone",
    "build_base",
    "build_classifier",
    "build_head",
    "build_vgg16",
    "check_frozen_layers",
    "find_backbone",
    "freeze",
    "split_model",
    "unfreeze_after",
]

_IMAGENET_MEAN = [-123.68, -116.779, -103.939]  # of red, green and blue, negated


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A convnet trained on ImageNet, and how the stages use it."""

    build: Callable
    """`build(image_size)` returns a model from float32 RGB images in [0, 255], preprocessing
    included, to the last feature map. Its weights are random."""
    load_weights: Callable
    """`load_weights(path)` returns a `dict` from layer name to the list of arrays for that layer's
    `set_weights`, verified; `path` is a file or `None` to search for them."""
    cut: str
    """Name of the last layer that no stage trains: its output is cached, and fine-tuning unfreezes
    everything after it. All paths through the network must pass through it."""
    weights_digest: str
    """`digest_tensors` of all its tensors; cached features are named after it."""
    frozen_digest: str
    """`digest_tensors` of the tensors up to and including the layer `cut`."""


def build_vgg16(image_size):
    """VGG16 up to its last pooling, with its preprocessing.

    Args:
        image_size: Side of the input in pixels, 32 at least.

    Returns:
        A model with random weights, from float32 RGB (batch, image_size, image_size, 3) in
        [0, 255] to (batch, image_size // 32, image_size // 32, 512). Its layers carry Keras's
        names, `block1_conv1` to `block5_pool`.

    Reference:
        Simonyan and Zisserman, [Very Deep Convolutional Networks for Large-Scale Image
        Recognition](https://arxiv.org/abs/1409.1556), ICLR 2015.
    """
    inputs = keras.Input((image_size, image_size, 3), name="image")
    # BGR with the ImageNet mean subtracted, as VGG16 was trained. Dividing by 255 instead, as the
    # first edition does, costs accuracy. (Keras's own preprocess_input holds the mean
    # as a tensor outside the graph, which an ONNX file then asks for as a second input.)
    x = layers.Rescaling(1.0, offset=_IMAGENET_MEAN, dtype="float32", name="subtract_mean")(inputs)
    x = keras.ops.flip(x, axis=-1)
    outputs = keras.applications.VGG16(include_top=False, weights=None, input_tensor=x).output
    return keras.Model(inputs, outputs, name="vgg16")


BACKBONES = {
    "vgg16": Backbone(
        build=build_vgg16,
        load_weights=load_vgg16_weights,
        cut="block4_pool",
        weights_digest=VGG16_DIGEST,
        frozen_digest="4f06afdf457e2fdc81e83ffe840d9c382ff7f48e9467b2b162b4a74a25c62379",
    ),
}


def find_backbone(name):
    """The record of a backbone.

    Raises:
        InputError: If there is none of this name.
    """
    if name not in BACKBONES:
        raise InputError(f"Expected --backbone out of {', '.join(BACKBONES)}. Received: {name}.")
    return BACKBONES[name]


def build_base(backbone, image_size, pooling="none", weights=None):
    """A backbone with its ImageNet weights, from images to bottleneck features.

    Args:
        backbone: Name of a record in `BACKBONES`.
        image_size: Side of the input, in pixels.
        pooling: `"average"` over positions, giving (batch, channels); `"none"` keeps them, giving
            (batch, height, width, channels).
        weights: File with the ImageNet tensors, or `None` to search for it.

    Returns:
        A model from float32 RGB images in [0, 255]; all its layers are trainable.

    Raises:
        InputError: If there is no such backbone, or its weights are not found or not the expected
            ones.
    """
    record = find_backbone(backbone)
    tensors = record.load_weights(weights)  # first, because it may fail
    network = record.build(image_size)
    for name, arrays in tensors.items():
        network.get_layer(name).set_weights(arrays)
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
    """
    middle = model.get_layer(layer_name).output
    prefix = keras.Model(model.input, middle, name="prefix")
    suffix = keras.Model(middle, model.output, name="suffix")
    return prefix, suffix


def freeze(model):
    """Freezes every layer of a base, in place."""
    # A flag on the model alone would be lost when its layers join another model.
    for layer in model.layers:
        layer.trainable = False


def unfreeze_after(model, layer_name):
    """Freezes a model up to and including a layer and makes the rest trainable, in place.

    Args:
        model: A base, or a classifier that has the base's layers.
        layer_name: Name of the last frozen layer.
    """
    prefix, _ = split_model(model, layer_name)
    for layer in model.layers:
        layer.trainable = layer not in prefix.layers


def check_frozen_layers(model, backbone, path):
    """Verifies the layers that no stage trains, because all runs share their cached activations.

    Args:
        model: A classifier that was loaded from a file.
        backbone: Name of a record in `BACKBONES`.
        path: The run, for the message.

    Raises:
        InputError: If their weights are not the backbone's ImageNet weights, bit for bit.
    """
    record = find_backbone(backbone)
    try:
        prefix, _ = split_model(model, record.cut)
    except ValueError:  # no such layer
        prefix = None
    if prefix is None or digest_tensors(prefix.get_weights()) != record.frozen_digest:
        raise InputError(
            f"Expected a model in {path} whose layers up to {record.cut} are those of {backbone}, "
            "received others. Train the run again."
        )
