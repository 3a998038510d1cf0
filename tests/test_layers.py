"""Layers: values and weights against Keras, config round trips, shapes of the graph, texts of errors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from wdfast import graph, initializers, layers, models, ops, regularizers

IMAGE = (2, 9, 8, 4)

# (class, arguments, shape of the input); Keras has each of them under the same name and arguments.
CASES: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("Dense", {"units": 3}, (5, 4)),
    ("Dense", {"units": 3, "activation": "tanh", "use_bias": False}, (5, 2, 4)),
    ("Conv2D", {"filters": 6, "kernel_size": 3}, IMAGE),
    ("Conv2D", {"filters": 6, "kernel_size": (3, 2), "strides": (2, 1), "padding": "same",
                "activation": "relu"}, IMAGE),
    ("Conv2D", {"filters": 6, "kernel_size": 3, "groups": 2, "use_bias": False, "padding": "SAME"}, IMAGE),
    ("Conv2D", {"filters": 2, "kernel_size": 3, "dilation_rate": 2}, IMAGE),
    ("DepthwiseConv2D", {"kernel_size": 3}, IMAGE),
    ("DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 2, "strides": 2, "padding": "same",
                         "activation": "elu"}, IMAGE),
    ("SeparableConv2D", {"filters": 5, "kernel_size": 3, "depth_multiplier": 2, "padding": "same"}, IMAGE),
    ("Conv2DTranspose", {"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same"}, IMAGE),
    ("Conv2DTranspose", {"filters": 3, "kernel_size": (4, 2), "strides": 2, "activation": "sigmoid"}, IMAGE),
    ("MaxPooling2D", {}, IMAGE),
    ("MaxPooling2D", {"pool_size": 3, "strides": 2, "padding": "same"}, IMAGE),
    ("AveragePooling2D", {"pool_size": (2, 3)}, IMAGE),
    # not "same": Keras counts padded cells on PyTorch, unlike on TensorFlow (and here)
    ("AveragePooling2D", {"pool_size": 3, "strides": 2}, IMAGE),
    ("GlobalMaxPooling2D", {}, IMAGE),
    ("GlobalAveragePooling2D", {"keepdims": True}, IMAGE),
    ("UpSampling2D", {"size": (2, 3)}, IMAGE),
    ("UpSampling2D", {"size": 2, "interpolation": "bilinear"}, IMAGE),
    ("Flatten", {}, IMAGE),
    ("Reshape", {"target_shape": (6, -1)}, IMAGE),
    ("Reshape", {"target_shape": (72, 4)}, IMAGE),
    ("Activation", {"activation": "gelu"}, IMAGE),
    ("Activation", {"activation": "log_softmax"}, (3, 7)),
    ("ReLU", {"max_value": 0.5, "negative_slope": 0.1}, IMAGE),
    ("LeakyReLU", {}, IMAGE),
    ("ELU", {"alpha": 0.5}, IMAGE),
    ("Softmax", {}, IMAGE),
    ("Softmax", {"axis": 1}, IMAGE),
    ("PReLU", {}, (6, 5)),
    ("PReLU", {"shared_axes": [1, 2], "alpha_initializer": "ones"}, IMAGE),
    ("ZeroPadding1D", {"padding": (2, 1)}, (3, 5, 4)),
    ("ZeroPadding2D", {}, IMAGE),
    ("ZeroPadding2D", {"padding": ((0, 2), (3, 1))}, IMAGE),
    ("Cropping1D", {}, (3, 5, 4)),
    ("Cropping2D", {"cropping": (2, 1)}, IMAGE),
    ("Permute", {"dims": (3, 1, 2)}, IMAGE),
    ("RepeatVector", {"n": 3}, (6, 5)),
    ("SpatialDropout1D", {"rate": 0.5}, (3, 5, 4)),
    ("SpatialDropout2D", {"rate": 0.5}, IMAGE),
    ("GaussianNoise", {"stddev": 0.5}, IMAGE),
    ("Dropout", {"rate": 0.3, "noise_shape": (None, 1, 1, None)}, IMAGE),
    ("BatchNormalization", {}, IMAGE),
    ("BatchNormalization", {"momentum": 0.9, "epsilon": 0.01, "center": False}, (6, 4)),
    ("BatchNormalization", {"scale": False}, IMAGE),
    ("BatchNormalization", {"scale": False, "center": False}, IMAGE),
    ("LayerNormalization", {}, IMAGE),
    ("LayerNormalization", {"axis": [1, 2, 3], "epsilon": 0.01}, IMAGE),
    ("LayerNormalization", {"scale": False}, (6, 5)),
    ("GroupNormalization", {"groups": 2}, IMAGE),
    ("GroupNormalization", {"groups": -1, "center": False}, IMAGE),
    ("GroupNormalization", {"groups": 1, "epsilon": 0.01}, (6, 5)),
    ("Rescaling", {"scale": 0.5, "offset": -1.0}, IMAGE),
    ("Dropout", {"rate": 0.5}, IMAGE),
]
RANDOM = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise")  # each draws its own while training


def label(case: Any) -> str | None:
    return case if isinstance(case, str) else None


@pytest.mark.parametrize(("name", "arguments", "shape"), CASES, ids=label)
def test_values_and_weights_are_those_of_keras(keras, rng, name: str, arguments: dict, shape) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    ours, theirs = getattr(layers, name)(**arguments), getattr(keras.layers, name)(**arguments)
    ours(x)
    theirs.build(shape)
    weights = [rng.uniform(0.2, 1, w.shape).astype(np.float32) for w in theirs.get_weights()]
    assert [w.shape for w in ours.get_weights()] == [w.shape for w in weights]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    y, expected = ours(x), keras.ops.convert_to_numpy(theirs(x))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    symbolic = ours(layers.Input(shape[1:]))
    assert symbolic.shape == (None, *expected.shape[1:])
    assert ours.output_shape == symbolic.shape


@pytest.mark.parametrize(("name", "arguments", "shape"), CASES, ids=label)
def test_config_round_trip(rng, name: str, arguments: dict, shape) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    layer = getattr(layers, name)(**arguments, name="mine", trainable=False, input_shape=shape[1:])
    y = layer(x)
    config = layer.get_config()
    stored = json.loads(json.dumps(layers.serialize(layer)))
    again = layers.from_config(stored)
    assert type(again) is type(layer)
    assert again.get_config() == config
    assert arguments.keys() <= config.keys()
    assert (again.name, again.trainable, again.input_shape_hint) == ("mine", False, shape[1:])
    again(x)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(x), y)


def test_config_of_initializers_and_regularizers() -> None:
    layer = layers.Conv2D(4, 3, kernel_initializer="he_normal", bias_initializer=initializers.Constant(2.0),
                          kernel_regularizer=regularizers.L2(0.5), activation=ops.relu)
    again = layers.from_config(json.loads(json.dumps(layers.serialize(layer))))
    assert isinstance(again.kernel_initializer, initializers.HeNormal)
    assert again.bias_initializer.value == 2.0
    assert again.kernel_regularizer.l2 == 0.5
    assert again.activation == "relu"
    with pytest.raises(ValueError, match=r"Dense: argument 'activation': .* cannot be written to a file"):
        layers.Dense(1, activation=lambda x: x).get_config()


def test_roles_and_regularizers() -> None:
    def roles(layer: layers.Layer, shape: tuple[int, ...]) -> dict[str, str]:
        layer(np.zeros(shape, np.float32))
        return {p.name.split("/")[1]: p.role for p in layer.parameters}

    assert roles(layers.Dense(2), (1, 3)) == {"kernel": "kernel", "bias": "bias"}
    assert roles(layers.BatchNormalization(), (1, 3)) == {
        "gamma": "norm_scale", "beta": "norm_shift", "moving_mean": "state", "moving_variance": "state"}
    separable = layers.SeparableConv2D(2, 3, depthwise_regularizer="l2", bias_regularizer=regularizers.L1(0.1))
    assert roles(separable, IMAGE) == {"depthwise_kernel": "kernel", "pointwise_kernel": "kernel", "bias": "bias"}
    depthwise, pointwise, bias = separable.parameters
    assert (depthwise.regularizer.l2, pointwise.regularizer, bias.regularizer.l1) == (0.01, None, 0.1)


def test_explicit_padding(rng) -> None:
    x = rng.standard_normal(IMAGE).astype(np.float32)
    layer = layers.Conv2D(3, 3, padding=((1, 2), (0, 1)))
    y = layer(x)
    padded = np.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)))
    np.testing.assert_allclose(y, ops.conv2d(padded, layer.kernel, layer.bias), rtol=1e-5, atol=1e-6)


def test_merging(rng) -> None:
    a, b, c = (rng.standard_normal((3, 4)).astype(np.float32) for _ in range(3))
    np.testing.assert_allclose(layers.add([a, b, c]), a + b + c, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(layers.subtract([a, b]), a - b)
    np.testing.assert_allclose(layers.multiply([a, b, c]), a * b * c, rtol=1e-6)
    np.testing.assert_allclose(layers.average([a, b, c]), (a + b + c) / 3, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layers.maximum([a, b, c]), np.maximum(np.maximum(a, b), c))
    np.testing.assert_array_equal(layers.minimum([a, b]), np.minimum(a, b))
    np.testing.assert_array_equal(layers.concatenate([a, b]), np.concatenate([a, b], -1))
    np.testing.assert_array_equal(layers.Concatenate(axis=1)([a, b]), np.concatenate([a, b], 1))
    x = layers.Input((4,))
    assert layers.Add()([x, x]).shape == (None, 4)
    assert layers.Concatenate()(x, x).shape == (None, 8)
    for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"):
        made = getattr(layers, name)(name="m")
        assert layers.from_config(layers.serialize(made)).get_config() == made.get_config()


def test_input() -> None:
    x = layers.Input((28, 28, 1), dtype="uint8", name="image")
    assert (x.shape, x.dtype, x.name, x.node) == ((None, 28, 28, 1), "uint8", "image", None)
    assert layers.Input(shape=(3,)).name.startswith("input_layer")
    y = layers.Rescaling(1 / 255)(x)
    assert y.dtype == "float32"
    assert layers.InputLayer((28, 28)).input_shape_hint == (28, 28)
    assert layers.InputLayer(input_shape=(28,)).input_shape_hint == (28,)
    assert layers.Dense(3, input_dim=7).input_shape_hint == (7,)
    assert layers.InputLayer((3,))(x) is x


def test_rescaling_of_pixels() -> None:
    x = np.arange(6, dtype=np.uint8).reshape(1, 3, 2)
    np.testing.assert_allclose(layers.Rescaling([1, 2], [0, -1])(x), x * [1, 2] + [0, -1])


def test_layers_emit_unfused_nodes() -> None:
    x = layers.Input((8, 8, 3))
    conv = layers.Conv2D(4, 3, activation="relu", name="conv")
    y = layers.MaxPooling2D(2, name="pool")(conv(x))
    nodes = graph.subgraph([y])
    assert [(n.op, n.layer.name) for n in nodes] == [("conv2d", "conv"), ("activation", "conv"), ("max_pool2d", "pool")]
    assert nodes[0].inputs["w"] is conv.kernel
    dense = layers.Dense(3, activation="softmax")
    assert [n.op for n in graph.subgraph([dense(layers.Input((5,)))])] == ["dense", "softmax"]


def test_weights_that_a_layer_computes_stay_in_the_graph() -> None:
    layer = layers.DepthwiseConv2D(3)
    nodes = graph.subgraph([layer(layers.Input((8, 8, 3)))])
    assert [n.op for n in nodes] == ["reshape", "conv2d"]
    assert nodes[0].inputs["x"] is layer.parameters[0]
    assert all(n.layer is layer for n in nodes)

    class Normalised(layers.Layer):
        def build(self, input_shape):
            self.v = self.add_weight("v", (input_shape[-1], 2))
            self.g = self.add_weight("g", (2,), "ones", role="norm_scale")

        def call(self, x):
            return ops.matmul(x, ops.multiply(self.v, self.g))

    own = Normalised()
    found = [v for n in graph.subgraph([own(layers.Input((3,)))]) for v in n.inputs.values()
             if isinstance(v, graph.Parameter)]
    assert found == own.parameters
    assert own(np.ones((1, 3), np.float32)).shape == (1, 2)  # and on arrays it computes


def test_batch_normalization_while_training(keras, rng) -> None:
    x = rng.standard_normal(IMAGE).astype(np.float32) * 3 + 1
    ours, theirs = layers.BatchNormalization(momentum=0.8), keras.layers.BatchNormalization(momentum=0.8)
    np.testing.assert_allclose(ours(x, training=True), keras.ops.convert_to_numpy(theirs(x, training=True)),
                               rtol=1e-4, atol=1e-5)
    for mine, peer in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, peer, rtol=1e-4, atol=1e-5)
    assert not np.allclose(ours.get_weights()[2], 0)


def test_dropout_while_training() -> None:
    x = np.ones((100, 100), np.float32)
    layer = layers.Dropout(0.25, seed=3)
    first, second = layer(x, training=True), layer(x, training=True)
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (first == 0).mean() == pytest.approx(0.25, abs=5 * np.sqrt(0.25 * 0.75 / x.size))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(layers.Dropout(0.25, seed=3)(x, training=True), first)
    np.testing.assert_array_equal(layer(x), x)
    initializers.set_seed(1)
    unseeded = layers.Dropout(0.25)(x, training=True)
    initializers.set_seed(1)
    np.testing.assert_array_equal(layers.Dropout(0.25)(x, training=True), unseeded)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh", "elu", "gelu", "softmax", "log_softmax",
                                  "softplus", "exponential", "relu6", "hard_sigmoid", "hard_silu", "hard_swish",
                                  "log_sigmoid", "mish", "selu", "silu", "swish", "softsign", "linear"])
def test_activations_are_those_of_keras(keras, rng, name: str) -> None:
    x = (4 * rng.standard_normal((5, 7))).astype(np.float32)
    expected = keras.ops.convert_to_numpy(keras.activations.get(name)(x))
    np.testing.assert_allclose(layers.Activation(name)(x), expected, rtol=1e-5, atol=2e-6)
    dense = layers.from_config(layers.serialize(layers.Dense(7, name, kernel_initializer="identity")))
    np.testing.assert_allclose(dense(x), expected, rtol=1e-5, atol=2e-6)


def test_feature_maps_are_dropped_whole() -> None:
    x = np.ones((50, 4, 6, 40), np.float32)
    y = layers.SpatialDropout2D(0.25, seed=3)(x, training=True)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1, :1], y.shape))
    maps = y[:, 0, 0]
    assert (maps == 0).mean() == pytest.approx(0.25, abs=5 * np.sqrt(0.25 * 0.75 / maps.size))
    steps = layers.SpatialDropout1D(0.5, seed=3)(x[:, 0], training=True)
    np.testing.assert_array_equal(steps, np.broadcast_to(steps[:, :1], steps.shape))
    assert 0 < (steps == 0).mean() < 1


def test_noise_while_training() -> None:
    x = np.full((200, 300), 3, np.float32)
    layer = layers.GaussianNoise(0.5, seed=1)
    first, second = layer(x, training=True), layer(x, training=True)
    error = 5 * 0.5 / np.sqrt(x.size)
    assert first.mean() == pytest.approx(3, abs=error)
    assert first.std() == pytest.approx(0.5, abs=error)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(layer(x), x)
    made = layers.Input((300,))
    model = models.Model(made, layers.GaussianNoise(0.5)(made))
    np.testing.assert_array_equal(model.predict(x), x)
    noisy, _ = model.vjp(x)
    assert noisy.std() == pytest.approx(0.5, abs=error)


def test_trainable() -> None:
    layer = layers.BatchNormalization()
    layer(np.ones((2, 3), np.float32))
    layer.trainable = False
    assert [p.trainable for p in layer.parameters] == [False] * 4
    layer.trainable = True
    assert [p.trainable for p in layer.parameters] == [True, True, False, False]
    frozen = layers.Dense(2, trainable=False)
    frozen(np.ones((1, 3), np.float32))
    assert not any(p.trainable for p in frozen.parameters)


def test_names() -> None:
    assert layers.Conv2DTranspose(1, 1).name.startswith("conv2d_transpose")
    assert layers.MaxPooling2D().name.startswith("max_pooling2d")
    first, second = layers.Dense(1).name, layers.Dense(1).name
    assert first != second
    assert layers.MaxPool2D is layers.MaxPooling2D


def test_a_layer_of_ones_own(rng) -> None:
    class Scale(layers.Layer):
        def __init__(self, factor: float, **options: Any) -> None:
            super().__init__(**options)
            self.factor = factor

        def build(self, input_shape):
            self.inner = layers.Dense(2, name="inner")

        def call(self, x):
            return ops.multiply(self.inner(x), self.factor)

    x = rng.standard_normal((3, 4)).astype(np.float32)
    layer = Scale(2.0, name="mine")
    np.testing.assert_allclose(layer(x), 2 * layer.inner(x), rtol=1e-6)
    stored = layers.serialize(layer)
    assert stored == {"class_name": "Scale", "config": {"name": "mine", "trainable": True, "factor": 2.0}}
    assert layers.from_config(stored, {"Scale": Scale}).factor == 2.0
    with pytest.raises(ValueError, match=r"no layer class 'Scale'.*custom_objects=\{'Scale': Scale\}"):
        layers.from_config(stored)
    with pytest.raises(ValueError, match=r"Scale 'mine': Dense 'inner': expected input \(N, …, 4\) float32"):
        layer(np.zeros((3, 5), np.float32))


def test_gradient_of_a_layer(torch, rng) -> None:
    x = rng.standard_normal(IMAGE).astype(np.float32)
    layer = layers.SeparableConv2D(5, 3, depth_multiplier=2, activation="tanh")
    y, pullback = ops.vjp(layer, x)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    depthwise, pointwise, bias = (torch.tensor(w) for w in layer.get_weights())
    image = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    hidden = torch.nn.functional.conv2d(image, depthwise.permute(2, 3, 0, 1).reshape(8, 1, 3, 3), groups=4)
    out = torch.tanh(torch.nn.functional.conv2d(hidden, pointwise.permute(3, 2, 0, 1), bias))
    np.testing.assert_allclose(y, out.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-5)
    out.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(pullback(dy)[0], image.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


def built(layer: layers.Layer, shape: tuple[int, ...]) -> layers.Layer:
    layer(np.zeros(shape, np.float32))
    return layer


@pytest.mark.parametrize(("call", "message"), [
    (lambda: built(layers.Conv2D(2, 3, name="conv1"), (1, 28, 28, 3))(np.zeros((32, 28, 28))),
     "Conv2D 'conv1': expected input (N, H, W, 3) float32, got (32, 28, 28) float64"),
    (lambda: layers.Conv2D(2, 3, name="conv1")(np.zeros((32, 28, 28, 3))),
     "Conv2D 'conv1': expected input (N, H, W, C) float32, got (32, 28, 28, 3) float64"),
    (lambda: built(layers.Dense(2, name="d"), (1, 4))(layers.Input((5,))),
     "Dense 'd': expected input (N, …, 4) float32, got (None, 5) float32"),
    (lambda: layers.Dense(2, name="d")(np.zeros(3, np.float32)),
     "Dense 'd': expected input (N, …, in) float32, got (3,) float32"),
    (lambda: layers.MaxPooling2D(name="p")(np.zeros((1, 4, 4), np.float32)),
     "MaxPooling2D 'p': expected input (N, H, W, C) float32, got (1, 4, 4) float32"),
    (lambda: layers.Conv2D(2, 9, name="c")(np.zeros((1, 4, 4, 1), np.float32)), "Conv2D 'c': "),
    (lambda: layers.Conv2D(0, 3), "Conv2D: argument 'filters': expected an int ≥ 1, got 0"),
    (lambda: layers.Conv2D(4, 0), "Conv2D: argument 'kernel_size': expected an int or two, each ≥ 1, got 0"),
    (lambda: layers.Conv2D(4, 3, padding="full"), "Conv2D: argument 'padding': expected 'valid', 'same' or"),
    (lambda: layers.Conv2D(4, 3, groups=3), "Conv2D: argument 'groups': expected a divisor of 4 filters, got 3"),
    (lambda: layers.Conv2D(4, 3, groups=2, name="g")(np.zeros((1, 8, 8, 3), np.float32)),
     "Conv2D 'g': argument 'groups': expected a divisor of 3 channels, got 2"),
    (lambda: layers.Dense(2, activation="rellu"), "Dense: argument 'activation': expected one of"),
    (lambda: layers.Dense(2.5), "Dense: argument 'units': expected an int ≥ 1, got 2.5"),
    (lambda: layers.Dropout(1.5), "Dropout: argument 'rate': expected 0 … 1, got 1.5"),
    (lambda: layers.Reshape((-1, -1)), "Reshape: argument 'target_shape'"),
    (lambda: layers.Reshape((5,), name="r")(np.zeros((2, 4), np.float32)), "Reshape 'r': "),
    (lambda: layers.Add(name="a")(np.zeros(3, np.float32)), "Add 'a': expected at least two inputs, got one"),
    (lambda: layers.Subtract(name="s")([np.zeros(3, np.float32)] * 3), "Subtract 's': expected two inputs, got 3"),
    (lambda: layers.BatchNormalization(axis=1, name="b")(np.zeros((2, 3, 3, 4), np.float32)),
     "BatchNormalization 'b': argument 'axis': expected -1"),
    (lambda: layers.Softmax(axis=2, name="s")(np.zeros((2, 3), np.float32)),
     "Softmax 's': argument 'axis': expected -2 … 1, got 2"),
    (lambda: layers.LayerNormalization(axis=1, name="n")(np.zeros((2, 3, 4), np.float32)),
     "LayerNormalization 'n': layer_norm: argument 'axis': expected the last axes of 3, got 1"),
    (lambda: layers.GroupNormalization(3, name="n")(np.zeros((2, 3, 4), np.float32)),
     "GroupNormalization 'n': argument 'groups': expected a divisor of 4 channels, got 3"),
    (lambda: layers.GroupNormalization(0), "GroupNormalization: argument 'groups': expected -1 or an int ≥ 1, got 0"),
    (lambda: layers.LayerNormalization(epsilon=-1), "LayerNormalization: argument 'epsilon': expected a number ≥ 0"),
    (lambda: layers.ZeroPadding2D((1, -1)), "ZeroPadding2D: argument 'padding': expected an int, two ints or"),
    (lambda: layers.ZeroPadding1D(((1, 1), (1, 1))), "ZeroPadding1D: argument 'padding': expected an int or (before"),
    (lambda: layers.Cropping2D(2, name="c")(np.zeros((1, 4, 5, 1), np.float32)),
     "Cropping2D 'c': argument 'cropping': nothing is left of 4 after 2 and 2"),
    (lambda: layers.Permute((1, 3)), "Permute: argument 'dims': expected each of 1 … 2 once, got (1, 3)"),
    (lambda: layers.PReLU(shared_axes=3, name="p")(np.zeros((2, 3), np.float32)),
     "PReLU 'p': argument 'shared_axes': expected 1 … 1, got [3]"),
    (lambda: layers.RepeatVector(0), "RepeatVector: argument 'n': expected an int ≥ 1, got 0"),
    (lambda: layers.SpatialDropout2D(-1), "SpatialDropout2D: argument 'rate': expected 0 … 1, got -1"),
    (lambda: layers.GaussianNoise(-1), "GaussianNoise: argument 'stddev': expected a number ≥ 0, got -1"),
    (lambda: layers.Dropout(0.5, (1, None, 1), name="d")(np.zeros((2, 3, 4), np.float32)),
     "Dropout 'd': dropout: argument 'noise_shape': expected sizes of 1 side by side"),
    (lambda: layers.Input((None, 3)), "Input: argument 'shape'"),
    (lambda: layers.Input((3,), dtype="float64"), "Input: argument 'dtype': expected float32, int32 or uint8"),
    (lambda: built(layers.Dense(2, name="d"), (1, 4)).set_weights([np.zeros((4, 2)), np.zeros(3)]),
     "weight 'd/bias': expected shape (2,), got (3,)"),
    (lambda: layers.get("Dens"), "layers.get: no layer class 'Dens'"),
])
def test_errors(call, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the whole text is compared below
        call()
    assert str(error.value).startswith(message)
