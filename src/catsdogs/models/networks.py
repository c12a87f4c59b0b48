"""The networks: two small convnets, the VGG16 base, its head, and ways to cut and thaw them.

Every model takes float32 (batch, height, width, 3) in [0, 255], scales it itself, and returns
probabilities, float32 in [0, 1]: of class 1 alone, (batch, 1), if there are two classes, else of
every class, (batch, num_classes). The layer named `logit` holds the values before the sigmoid or
softmax. No model contains augmentation, so it can be exported and runs at full speed.
"""

import json

import keras
from keras import layers

from catsdogs.models.weights import load_vgg16_weights

__all__ = [
    "build_head",
    "build_logits",
    "build_residual_convnet",
    "build_textbook_convnet",
    "build_vgg16_base",
    "build_vgg16_classifier",
    "divide_logits",
    "freeze",
    "in_float32",
    "split_base",
    "unfreeze_block5",
]

_IMAGENET_MEAN = [-123.68, -116.779, -103.939]  # of red, green and blue, negated


def build_textbook_convnet(image_size=150, dropout=0.5, num_classes=2):
    """The first edition's convnet: four convolutions with max pooling, one wide dense layer.

    Has 3,453,121 parameters at 150 pixels.

    Args:
        image_size: Side of the input, in pixels.
        dropout: Share of the flattened features dropped in training; 0 leaves the layer out, as
            the book does before it introduces augmentation.
        num_classes: Two or more.

    Reference:
        Chollet, *Deep Learning with Python*, 1st edition (2017), listings 5.5 and 5.13.
    """
    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(1 / 255)(inputs)
    for block, filters in enumerate((32, 64, 128, 128), start=1):
        x = layers.Conv2D(filters, 3, activation="relu", name=f"conv{block}")(x)
        x = layers.MaxPooling2D(name=f"pool{block}")(x)
    x = layers.Flatten()(x)
    if dropout:
        x = layers.Dropout(dropout)(x)
    x = layers.Dense(512, activation="relu", name="dense")(x)
    return keras.Model(inputs, _probability(x, num_classes), name="textbook_convnet")


def build_residual_convnet(dropout=0.3, num_classes=2, widths=(32, 64, 128, 256), blocks=2):
    """A small convnet of today: pre-activation residual blocks and global average pooling.

    Takes images of any size, so it can be trained on small crops and evaluated on larger images.
    Has 2,802,545 parameters as called by default.

    Args:
        dropout: Share of the pooled features dropped in training.
        num_classes: Two or more.
        widths: Channels of each group of blocks; every group after the first halves the size.
        blocks: Residual blocks in a group.

    Reference:
        He et al., "Identity mappings in deep residual networks" (2016).
    """
    inputs = keras.Input((None, None, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)

    # Stem: a quarter of the side before the first block, where full size would cost most.
    x = _convolution("stem_conv1", 16, strides=2)(x)
    x = _norm_relu("stem", x)
    x = _convolution("stem_conv2", widths[0])(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)

    for group, width in enumerate(widths, start=1):
        for block in range(1, blocks + 1):
            strides = 2 if group > 1 and block == 1 else 1
            x = _residual_block(f"group{group}_block{block}", x, width, strides)

    x = _norm_relu("last", x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, _probability(x, num_classes), name="residual_convnet")


def build_vgg16_base(image_size, pooling="none", weights=None):
    """VGG16 up to its last pooling, with ImageNet weights and its own preprocessing.

    Args:
        image_size: Side of the input, in pixels, 32 at least.
        pooling: `"average"` over positions, giving (batch, 512); `"none"` keeps them, giving
            (batch, image_size // 32, image_size // 32, 512).
        weights: File with the ImageNet tensors, or `None` to find them (see `weights`).

    Returns:
        A model from float32 RGB images in [0, 255] to bottleneck features. Its layers carry
        Keras's names, `block1_conv1` to `block5_pool`. It starts as `weights` has it: trainable.

    Reference:
        Simonyan and Zisserman, "Very deep convolutional networks" (2014).
    """
    tensors = load_vgg16_weights(weights)
    inputs = keras.Input((image_size, image_size, 3), name="image")
    # BGR with the ImageNet mean subtracted, as VGG16 was trained. Dividing by 255 instead, as the
    # first edition does, costs 6 points of accuracy. (Keras's own preprocess_input holds the mean
    # as a tensor outside the graph, which an ONNX file then asks for as a second input.)
    x = layers.Rescaling(1.0, offset=_IMAGENET_MEAN, dtype="float32", name="subtract_mean")(inputs)
    x = keras.ops.flip(x, axis=-1)
    conv_base = keras.applications.VGG16(include_top=False, weights=None, input_tensor=x)
    for name, (kernel, bias) in tensors.items():
        conv_base.get_layer(name).set_weights([kernel, bias])
    outputs = conv_base.output
    if pooling == "average":
        outputs = layers.GlobalAveragePooling2D(name="average_pool")(outputs)
    return keras.Model(inputs, outputs, name="conv_base")


def build_head(feature_shape, units=256, dropout=0.5, normalize=True, num_classes=2):
    """A dense classifier for bottleneck features.

    Args:
        feature_shape: Shape of one image's features: (channels,) or (height, width, channels).
        units: Width of the dense layer.
        dropout: Share of its activations dropped in training.
        normalize: Whether to normalise the features of each image first: VGG16's are large and
            uneven, and a head learns faster from normalised ones. The book's head does not.
        num_classes: Two or more.
    """
    inputs = keras.Input(feature_shape, name="features")
    x = layers.Flatten()(inputs) if len(feature_shape) > 1 else inputs
    if normalize:
        x = layers.LayerNormalization(name="norm")(x)
    x = layers.Dense(units, activation="relu", name="dense")(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, _probability(x, num_classes), name="head")


def build_vgg16_classifier(conv_base, head):
    """The base and the head as one model that shares their weights.

    The base's layers stay visible by name in the result, for fine-tuning and for looking inside.
    """
    return keras.Model(conv_base.input, head(conv_base.output), name="vgg16_classifier")


def split_base(conv_base, cut="block4_pool"):
    """Cuts the base in two models that share its weights.

    Args:
        conv_base: The model to cut: a base or a whole classifier.
        cut: Name of the last layer of the prefix.

    Returns:
        A pair of models, prefix and suffix, with `suffix(prefix(x)) == conv_base(x)`.
    """
    middle = conv_base.get_layer(cut).output
    prefix = keras.Model(conv_base.input, middle, name="prefix")
    suffix = keras.Model(middle, conv_base.output, name="suffix")
    return prefix, suffix


def freeze(conv_base):
    """Freezes every layer of the base, in place."""
    # A flag on the model alone would be lost when its layers join another model.
    for layer in conv_base.layers:
        layer.trainable = False


def unfreeze_block5(model):
    """Makes VGG16's last block trainable and keeps the first four frozen, in place.

    Args:
        model: A base or a classifier that has the base's layers.
    """
    frozen = ("block1", "block2", "block3", "block4")
    for layer in model.layers:
        layer.trainable = not layer.name.startswith(frozen)


def build_logits(classifier):
    """What a classifier computes before its sigmoid or softmax, a tensor of its graph.

    Args:
        classifier: A classifier of this module, or one that was loaded from its file.

    Returns:
        A symbolic tensor, (batch, 1) or (batch, num_classes), to build a `keras.Model` with.
    """
    *_, before, last = classifier.layers
    if last.name != "head":
        return classifier.get_layer("logit").output
    return keras.Model(last.input, last.get_layer("logit").output)(before.output)


def divide_logits(classifier, temperature):
    """Divides what comes before the sigmoid or softmax by a temperature, in place.

    Args:
        classifier: A classifier of this module.
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


def _probability(x, num_classes):
    # float32, because bfloat16 has three digits and rounds 0.999 to 1.
    units, activation = (1, "sigmoid") if num_classes == 2 else (num_classes, "softmax")
    x = layers.Dense(units, dtype="float32", name="logit")(x)
    return layers.Activation(activation, dtype="float32", name="probability")(x)


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
