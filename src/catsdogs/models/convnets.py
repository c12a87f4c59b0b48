"""The convnets that are trained from scratch, and what all classifiers have in common.

Every classifier takes float32 (batch, height, width, 3) in [0, 255], scales it itself, and returns
probabilities, float32 in [0, 1]: (batch, 1), of class 1, if there are two classes, otherwise
(batch, num_classes). The layer named `logit` holds the values before the sigmoid or softmax. No
model contains augmentation, so it can be exported and runs at full speed.
"""

import json

import keras
from keras import layers

__all__ = [
    "build_logits",
    "build_residual_convnet",
    "build_textbook_convnet",
    "divide_logits",
    "in_float32",
    "probability_layer",
]


def build_textbook_convnet(image_size=150, dropout=0.5, num_classes=2):
    """The first edition's convnet: four convolutions with max pooling, one wide dense layer.

    Has 3,453,121 parameters at 150 pixels.

    Args:
        image_size: Side of the input in pixels, 46 at least.
        dropout: Fraction of the flattened features dropped in training; 0 leaves the layer out, as
            the textbook does before it introduces augmentation.
        num_classes: Two or more.

    Reference:
        Chollet, *Deep Learning with Python*, 1st edition (2017), listings 5.5 and 5.13.
    """
    inputs = keras.Input((image_size, image_size, 3), name="image")  # (B, 150, 150, 3)
    x = layers.Rescaling(1 / 255)(inputs)
    for block, filters in enumerate((32, 64, 128, 128), start=1):
        x = layers.Conv2D(filters, 3, activation="relu", name=f"conv{block}")(x)
        x = layers.MaxPooling2D(name=f"pool{block}")(x)
    x = layers.Flatten()(x)  # (B, 7, 7, 128) -> (B, 6272)
    if dropout:
        x = layers.Dropout(dropout)(x)
    x = layers.Dense(512, activation="relu", name="dense")(x)
    return keras.Model(inputs, probability_layer(x, num_classes), name="textbook_convnet")


def build_residual_convnet(dropout=0.3, num_classes=2, widths=(32, 64, 128, 256), blocks=2):
    """A small modern convnet: pre-activation residual blocks and global average pooling.

    Takes images of any size, so it can be trained on small crops and evaluated on larger images.
    Has 2,802,545 parameters with the default arguments.

    Args:
        dropout: Fraction of the pooled features dropped in training.
        num_classes: Two or more.
        widths: Channels of each group of blocks; every group after the first halves the resolution.
        blocks: Residual blocks in a group.

    Reference:
        He et al., "Identity mappings in deep residual networks" (2016).
    """
    inputs = keras.Input((None, None, 3), name="image")  # (B, H, W, 3)
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)

    # Stem: reduces the resolution before the first block, where full size would cost most.
    x = _convolution("stem_conv1", 16, strides=2)(x)  # (B, H/2, W/2, 16)
    x = _norm_relu("stem", x)
    x = _convolution("stem_conv2", widths[0])(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)  # (B, H/4, W/4, 32)

    # Residual groups
    for group, width in enumerate(widths, start=1):
        for block in range(1, blocks + 1):
            strides = 2 if group > 1 and block == 1 else 1
            x = _residual_block(f"group{group}_block{block}", x, width, strides)

    # Head
    x = _norm_relu("last", x)  # (B, H/32, W/32, 256)
    x = layers.GlobalAveragePooling2D()(x)  # (B, 256)
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, probability_layer(x, num_classes), name="residual_convnet")


def probability_layer(x, num_classes):
    """The end of every classifier: a dense layer named `logit`, then a sigmoid or softmax.

    Args:
        x: A symbolic tensor, (batch, features).
        num_classes: Two or more.

    Returns:
        A symbolic tensor, float32 (batch, 1) for two classes, otherwise (batch, num_classes).
    """
    # float32, because bfloat16 has three digits and rounds 0.999 to 1.
    units, activation = (1, "sigmoid") if num_classes == 2 else (num_classes, "softmax")
    x = layers.Dense(units, dtype="float32", name="logit")(x)
    return layers.Activation(activation, dtype="float32", name="probability")(x)


def build_logits(classifier):
    """What a classifier computes before its sigmoid or softmax, a tensor of its graph.

    Args:
        classifier: A classifier of this package, newly built or loaded from its file.

    Returns:
        A symbolic tensor, (batch, 1) or (batch, num_classes), to build a `keras.Model` with.
    """
    *_, before, last = classifier.layers
    if last.name != "head":
        return classifier.get_layer("logit").output
    return keras.Model(last.input, last.get_layer("logit").output)(before.output)


def divide_logits(classifier, temperature):
    """Divides the logits by a temperature, in place, through the weights of the last dense layer.

    Args:
        classifier: A classifier of this package.
        temperature: See `catsdogs.evaluation.calibration.fit_temperature`.
    """
    last = classifier.layers[-1]
    logit = (last if last.name == "head" else classifier).get_layer("logit")
    logit.set_weights([weight / temperature for weight in logit.get_weights()])


def in_float32(model):
    """A copy of a model with the same weights that computes in float32."""
    config = json.dumps(model.get_config()).replace("mixed_bfloat16", "float32")
    copy = keras.Model.from_config(json.loads(config))
    copy.set_weights(model.get_weights())
    return copy


def _convolution(name, filters, kernel_size=3, strides=1):
    # No bias: the batch normalisation that follows has one.
    return layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )


def _norm_relu(name, x):
    # Momentum 0.9: with 63 steps an epoch, Keras's 0.99 would lag behind by more than an epoch.
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)


def _residual_block(name, x, width, strides):
    shortcut = x
    x = _norm_relu(f"{name}_1", x)
    if strides > 1 or shortcut.shape[-1] != width:
        shortcut = _convolution(f"{name}_shortcut", width, kernel_size=1, strides=strides)(x)
    x = _convolution(f"{name}_conv1", width, strides=strides)(x)
    x = _norm_relu(f"{name}_2", x)
    x = _convolution(f"{name}_conv2", width)(x)
    return layers.Add(name=f"{name}_add")([x, shortcut])
