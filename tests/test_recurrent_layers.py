"""SimpleRNN, GRU, LSTM, Bidirectional and TimeDistributed: beside Keras and PyTorch, with masks, saved and trained."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from support import EPS32, ROUNDINGS, assert_same_bits

from wdfast import _native, decay, layers, losses, models, optimizers

SHAPE = (5, 7, 4)
CELLS: list[tuple[str, dict[str, Any]]] = [
    ("SimpleRNN", {"units": 3}),
    ("GRU", {"units": 17}),
    ("GRU", {"units": 6, "reset_after": False}),
    ("LSTM", {"units": 6}),
]
CASES = [
    *CELLS,
    ("SimpleRNN", {"units": 5, "activation": "relu", "return_sequences": True, "use_bias": False}),
    ("SimpleRNN", {"units": 5, "go_backwards": True, "return_sequences": True, "return_state": True}),
    ("GRU", {"units": 4, "go_backwards": True, "return_state": True, "recurrent_activation": "tanh"}),
    ("GRU", {"units": 4, "return_sequences": True, "zero_output_for_mask": True}),
    ("LSTM", {"units": 1, "return_sequences": True, "return_state": True}),
    ("LSTM", {"units": 16, "go_backwards": True, "unit_forget_bias": False, "activation": "elu"}),
]


def label(case: Any) -> str | None:
    return case if isinstance(case, str) else None


def padding(rng: np.random.Generator, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Steps that are there: gaps anywhere, one sample without any, one that begins with some."""
    mask = rng.random(shape[:2]) < 0.6
    mask[0], mask[1, :3], mask[1, 3:] = True, False, True
    return mask


def as_list(values: Any) -> list[Any]:
    return list(values) if isinstance(values, (list, tuple)) else [values]


def same_weights(rng: np.random.Generator, ours: Any, theirs: Any) -> None:
    weights = [rng.uniform(-0.5, 0.5, w.shape).astype(np.float32) for w in theirs.get_weights()]
    assert [w.shape for w in ours.get_weights()] == [w.shape for w in weights]
    ours.set_weights(weights)
    theirs.set_weights(weights)


def assert_like(keras: Any, ours: Any, theirs: Any) -> None:
    assert len(as_list(ours)) == len(as_list(theirs))
    for a, b in zip(as_list(ours), as_list(theirs), strict=True):
        np.testing.assert_allclose(a, keras.ops.convert_to_numpy(b), rtol=1e-5, atol=1e-5)


# ---- beside Keras ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("name", "arguments"), CASES, ids=label)
def test_values_and_weights_are_those_of_keras(keras, rng, name: str, arguments: dict, masked: bool) -> None:
    x, mask = rng.standard_normal(SHAPE).astype(np.float32), padding(rng) if masked else None
    ours, theirs = getattr(layers, name)(**arguments), getattr(keras.layers, name)(**arguments)
    ours(x)
    theirs.build(x.shape)
    same_weights(rng, ours, theirs)
    assert_like(keras, ours(x, mask=mask), theirs(x, mask=mask))
    if not masked:  # with a mask Keras' backends differ in the output before the first step that is there
        states = [rng.uniform(-1, 1, (5, ours.units)).astype(np.float32) for _ in range(1 + (name == "LSTM"))]
        assert_like(keras, ours(x, initial_state=states), theirs(x, initial_state=states))


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave", None])
def test_bidirectional_is_that_of_keras(keras, rng, merge_mode: Any, sequences: bool) -> None:
    x = rng.standard_normal(SHAPE).astype(np.float32)
    ours = layers.Bidirectional(layers.LSTM(6, return_sequences=sequences, return_state=True), merge_mode)
    theirs = keras.layers.Bidirectional(keras.layers.LSTM(6, return_sequences=sequences, return_state=True), merge_mode)
    ours(x)
    theirs.build(x.shape)
    same_weights(rng, ours, theirs)
    for mask in (None, padding(rng)):
        y, expected = ours(x, mask=mask), theirs(x, mask=mask)
        if merge_mode is None:  # Keras leaves the states out of it, or puts them in, as its version likes
            y, expected = y[:2], as_list(expected)[:2]
        assert_like(keras, y, expected)


def test_the_initial_weights_are_distributed_as_those_of_keras(keras) -> None:
    for name in ("SimpleRNN", "GRU", "LSTM"):
        ours, theirs = (getattr(owner, name)(64) for owner in (layers, keras.layers))
        ours(np.zeros((1, 1, 32), np.float32))
        theirs.build((None, 1, 32))
        for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            assert abs(a.std() - b.std()) < 0.05 * max(b.std(), 0.01)
        np.testing.assert_array_equal(ours.get_weights()[2], theirs.get_weights()[2])
        u = ours.get_weights()[1]
        np.testing.assert_allclose(u @ u.T, np.eye(64), atol=1e-5)


def test_time_distributed_is_that_of_keras(keras, rng) -> None:
    x = rng.standard_normal((3, 5, 6, 6, 2)).astype(np.float32)
    ours = layers.TimeDistributed(layers.Conv2D(4, 3, activation="tanh"))
    theirs = keras.layers.TimeDistributed(keras.layers.Conv2D(4, 3, activation="tanh"))
    ours(x)
    theirs.build(x.shape)
    same_weights(rng, ours, theirs)
    assert_like(keras, ours(x), theirs(x))


# ---- beside PyTorch -------------------------------------------------------------------------------------


def as_torch(torch: Any, name: str, weights: list[np.ndarray], both: bool) -> Any:
    """PyTorch's module of the same weights in float64. Its gru has r before z; it adds a second bias."""
    units = weights[1].shape[0]
    kind = {"SimpleRNN": torch.nn.RNN, "GRU": torch.nn.GRU, "LSTM": torch.nn.LSTM}[name]
    module = kind(weights[0].shape[0], units, batch_first=True, bidirectional=both).double()
    for suffix, (w, u, b) in zip(["l0", "l0_reverse"][: 1 + both], [weights[:3], weights[3:]], strict=False):
        biases = b if b.ndim == 2 else np.stack([b, np.zeros_like(b)])
        order = [1, 0, 2] if name == "GRU" else range(w.shape[1] // units)
        rows = np.concatenate([np.arange(units) + k * units for k in order])
        for attribute, value in (("weight_ih", w.T[rows]), ("weight_hh", u.T[rows]), ("bias_ih", biases[0][rows]),
                                 ("bias_hh", biases[1][rows])):
            getattr(module, f"{attribute}_{suffix}").data.copy_(torch.tensor(value))
    return module


def gradients_of(module: Any, name: str, units: int, both: bool) -> list[np.ndarray]:
    """Those of PyTorch's weights, in the shapes and the order of ours."""
    found = []
    for suffix in ["l0", "l0_reverse"][: 1 + both]:
        w, u, b, b2 = (getattr(module, f"{a}_{suffix}").grad.numpy() for a in
                       ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        order = [1, 0, 2] if name == "GRU" else range(len(b) // units)
        rows = np.concatenate([np.arange(units) + k * units for k in order])
        found += [w[rows].T, u[rows].T, np.stack([b[rows], b2[rows]]) if name == "GRU" else b[rows]]
    return found


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("name", ["SimpleRNN", "GRU", "LSTM"])
@pytest.mark.parametrize(("batch", "steps", "units"), [(1, 1, 1), (3, 9, 17), (17, 4, 33), (2, 150, 3)])
def test_output_and_gradients_are_those_of_pytorch(torch, isa, name: str, both: bool, batch: int, steps: int,
                                                   units: int) -> None:
    rng = np.random.default_rng(units)
    x = rng.standard_normal((batch, steps, 4)).astype(np.float32)
    layer = getattr(layers, name)(units, return_sequences=True)
    tensor = layers.Input(x.shape[1:])
    model = models.Model(tensor, (layers.Bidirectional(layer) if both else layer)(tensor))
    model.set_weights([rng.uniform(-1, 1, p.shape) / np.sqrt(units) for p in model.parameters])
    module = as_torch(torch, name, model.get_weights(), both)
    given = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    expected, _ = module(given)
    y, pullback = model.vjp(x)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    expected.backward(torch.tensor(dy, dtype=torch.float64))
    found = [(y, expected.detach().numpy()), (pullback(dy), given.grad.numpy())]
    found += zip([p.grad for p in model.parameters], gradients_of(module, name, units, both), strict=True)
    for mine, theirs in found:
        limit = ROUNDINGS * EPS32 * np.sqrt(max(x.size, y.size)) * max(1.0, np.abs(theirs).max())
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=limit)


# ---- masks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("name", "arguments"), CELLS, ids=label)
def test_padding_changes_no_bit(rng, name: str, arguments: dict, both: bool, before: bool) -> None:
    """Of output, gradients and weights' gradients, however many steps of padding there are, and whatever they hold."""
    def run(x: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
        tensor, present = layers.Input(x.shape[1:]), layers.Input(mask.shape[1:])
        layer = getattr(layers, name)(**arguments)
        layer = layers.Bidirectional(layer) if both else layer
        model = models.Model([tensor, present], layer(tensor, mask=present))
        model.set_weights([np.random.default_rng(1).uniform(-0.5, 0.5, p.shape) for p in model.parameters])
        y, pullback = model.vjp([x, mask])
        dx = pullback(np.random.default_rng(2).standard_normal(y.shape).astype(np.float32))[0]
        return [y, *(p.grad.copy() for p in model.parameters), dx]

    x = rng.standard_normal(SHAPE).astype(np.float32)
    ones, pad = np.ones(SHAPE[:2], np.float32), np.zeros((5, 4), np.float32)
    short = run(x, ones)
    garbage = rng.standard_normal((5, 4, 4)).astype(np.float32)
    order = (1, 0) if before else (0, 1)
    long = run(*(np.concatenate([parts[i] for i in order], 1) for parts in ((x, garbage), (ones, pad))))
    inside, outside = (slice(4, None), slice(4)) if before else (slice(7), slice(7, None))
    assert not long[-1][:, outside].any()
    long[-1] = long[-1][:, inside]
    for a, b in zip(short, long, strict=True):
        np.testing.assert_array_equal(a, b)


def test_masks_travel_through_recurrent_layers(rng) -> None:
    tokens = layers.Input((6,), dtype="int32")
    x = layers.Embedding(9, 3, mask_zero=True)(tokens)
    assert layers.GRU(4)(x).mask is None
    y = layers.LSTM(4, return_sequences=True)(x)
    assert y.mask is x.mask
    assert layers.Bidirectional(layers.GRU(4))(y).mask is None
    z = layers.TimeDistributed(layers.Dense(2))(layers.Bidirectional(layers.GRU(4, return_sequences=True))(y))
    assert z.mask is x.mask
    back = layers.SimpleRNN(4, return_sequences=True, go_backwards=True)(x)
    a, b = layers.Bidirectional(layers.GRU(4, return_sequences=True), None)(x)
    assert a.mask is x.mask
    assert b.mask is x.mask
    given = np.array([[3, 1, 0, 2, 0, 0]])
    values, mask = models.Model(tokens, [back, back.mask]).predict(given)
    np.testing.assert_array_equal(mask, [[0, 0, 1, 0, 1, 1]])  # in the order of the outputs
    np.testing.assert_array_equal(values[0, 0], 0)
    np.testing.assert_array_equal(values[0, 3], values[0, 2])
    both = models.Model(tokens, layers.Bidirectional(layers.GRU(4, return_sequences=True))(x)).predict(given)
    np.testing.assert_array_equal(both.any(-1), given != 0)


# ---- saved and trained ----------------------------------------------------------------------------------


def wrapped(name: str, arguments: dict[str, Any]) -> list[Any]:
    plain = getattr(layers, name)(**arguments, name="mine", kernel_regularizer="l2", dropout=0.25,
                                  recurrent_dropout=0.5)
    return [plain, layers.Bidirectional(plain, "sum", name="both"),
            layers.Bidirectional(getattr(layers, name)(**arguments),
                                 backward_layer=layers.SimpleRNN(arguments["units"], "relu", go_backwards=True))]


@pytest.mark.parametrize(("name", "arguments"), CELLS, ids=label)
def test_config_and_file_round_trip(tmp_path, rng, name: str, arguments: dict) -> None:
    x = rng.standard_normal(SHAPE).astype(np.float32)
    for layer in [*wrapped(name, arguments), layers.TimeDistributed(layers.Dense(3, "relu"), name="each")]:
        y = layer(x)
        again = layers.from_config(json.loads(json.dumps(layers.serialize(layer))))
        assert again.get_config() == layer.get_config()
        again(x)
        again.set_weights(layer.get_weights())
        np.testing.assert_array_equal(again(x), y)
        model = models.Sequential([layers.Input(SHAPE[1:]), layer])
        model.save(tmp_path / "m.safetensors")
        read = models.load(tmp_path / "m.safetensors")
        np.testing.assert_array_equal(read.predict(x), model.predict(x))
        np.testing.assert_array_equal(read.layers[0](x), y)
        read.add(layers.Dropout(0.5))  # applies the layers anew
        np.testing.assert_array_equal(read.predict(x), model.predict(x))
        assert [p.name for p in read.parameters] == [p.name for p in model.parameters]


def test_wrappers_in_wrappers(tmp_path, rng) -> None:
    """Sentences of words of letters: each sentence by itself, in both directions."""
    x = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)
    layer = layers.TimeDistributed(layers.Bidirectional(layers.LSTM(3, recurrent_dropout=0.5)))
    tensor = layers.Input(x.shape[1:])
    model = models.Model(tensor, layers.TimeDistributed(layers.Dense(2))(layer(tensor)))
    assert model.output_shape == (None, 3, 2)
    y = layer(x)
    for i in range(3):
        np.testing.assert_array_equal(y[:, i], layer.layer(np.ascontiguousarray(x[:, i])))
    model.save(tmp_path / "m.safetensors")
    read = models.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(read.predict(x), model.predict(x))
    np.testing.assert_array_equal(read.layers[0](x), y)


def test_roles_and_names_of_weights() -> None:
    model = models.Sequential([layers.Input((3, 2)), layers.Bidirectional(layers.GRU(2), name="b")])
    assert [(p.name, p.role) for p in model.parameters] == [
        (f"b/{way}_{name}", role) for way in ("forward", "backward")
        for name, role in (("kernel", "kernel"), ("recurrent_kernel", "recurrent_kernel"), ("bias", "bias"))]
    assert [layer.name for layer in model.layers] == ["b"]
    model.layers[0].trainable = False
    assert not any(p.trainable for p in model.parameters)
    frozen = layers.Bidirectional(layers.GRU(2), trainable=False)
    frozen(np.zeros((1, 2, 2), np.float32))
    assert not any(p.trainable for p in frozen.parameters)


def test_what_a_wrapped_layer_adds_to_the_loss() -> None:
    x = np.ones((2, 3, 4), np.float32)
    inner = {"activity_regularizer": "l2", "kernel_initializer": "ones", "use_bias": False}
    each = layers.TimeDistributed(layers.Dense(1, **inner))
    each(x)
    np.testing.assert_allclose(each.losses, [0.01 * 6 * 16 / 6])
    both = layers.Bidirectional(layers.SimpleRNN(1, "relu", recurrent_initializer="zeros", **inner))
    both(x)
    np.testing.assert_allclose(both.losses, 2 * [0.01 * 2 * 16 / 2])


@pytest.mark.parametrize("layer", [
    lambda: layers.SimpleRNN(16), lambda: layers.GRU(12), lambda: layers.LSTM(12),
    lambda: layers.Bidirectional(layers.GRU(8, reset_after=False, dropout=0.1, recurrent_dropout=0.1)),
], ids=["simple", "gru", "lstm", "both"])
def test_a_network_learns_the_order_of_tokens_on_any_number_of_threads(rng, layer) -> None:
    """Which of two tokens comes first: no sum over the steps can tell."""
    tokens = rng.integers(3, 12, (256, 9))
    tokens[:, 6:] *= rng.integers(0, 2, (256, 1))  # some are shorter
    labels = rng.integers(0, 2, 256)
    places = np.sort(np.array([rng.choice(6, 2, replace=False) for _ in labels]), axis=1)
    tokens[np.arange(256), places[:, 0]], tokens[np.arange(256), places[:, 1]] = 1 + labels, 2 - labels

    def trained(threads: int) -> Any:
        _native.set_num_threads(threads)
        model = models.Sequential([layers.Embedding(12, 8, mask_zero=True), layer(), layers.Dense(2)])
        model.build((None, 9))
        start = np.random.default_rng(1)
        model.set_weights([start.normal(0, 0.4, w.shape) for w in model.get_weights()])
        model.compile(optimizers.Adam(0.02, decay=decay.decoupled(0.3)),
                      losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        history = model.fit(tokens, labels, epochs=20, batch_size=32, verbose=0, seed=0)
        return model.get_weights(), history.history["accuracy"][-1]

    (one, accuracy), (three, _) = trained(1), trained(3)
    assert accuracy > 0.95
    for a, b in zip(one, three, strict=True):
        assert_same_bits(a, b, "weights")


def test_dropout_takes_the_same_features_at_every_step(rng) -> None:
    x = np.ones((64, 5, 8), np.float32)
    layer = layers.SimpleRNN(8, "linear", kernel_initializer="identity", recurrent_initializer="zeros",
                             return_sequences=True, dropout=0.5, seed=0)
    np.testing.assert_array_equal(layer(x), x)
    y = layer(x, training=True)
    np.testing.assert_array_equal(y, np.repeat(y[:, :1], 5, axis=1))
    assert set(np.unique(y)) == {0.0, 2.0}
    assert 0.4 < (y == 0).mean() < 0.6


def test_dropout_of_the_state(rng) -> None:
    """h ← h·keep + 1: units that are kept grow like 2^t, the others stay 1; another call drops others."""
    layer = layers.SimpleRNN(64, "linear", kernel_initializer="ones", recurrent_initializer="identity",
                             return_sequences=True, recurrent_dropout=0.5, seed=0)
    x = np.ones((32, 4, 1), np.float32)
    np.testing.assert_array_equal(layer(x), np.broadcast_to(np.arange(1.0, 5)[:, None], (32, 4, 64)))
    y = layer(x, training=True)
    kept = y[:, 1] != 1
    assert 0.45 < kept.mean() < 0.55
    np.testing.assert_array_equal(y, np.where(kept[:, None], np.array([1.0, 3, 7, 15])[:, None], 1))
    assert (layer(x, training=True) != y).any()
    tensor = layers.Input((4, 1))
    model = models.Model(tensor, layer(tensor))
    np.testing.assert_array_equal(model.predict(x), layer(x))
    assert set(np.unique(model.vjp(x)[0])) == {1.0, 3.0, 7.0, 15.0}


def test_a_recurrent_network_starts_from_the_states_of_another(rng) -> None:
    """An encoder's last states as the decoder's first: gradients flow through them."""
    x, target = layers.Input((4, 3)), layers.Input((5, 2))
    _, h, c = layers.LSTM(6, return_state=True)(x)
    y = layers.LSTM(6, return_sequences=True)(target, initial_state=[h, c])
    model = models.Model([x, target], y)
    arrays = [rng.standard_normal((3, *t.shape[1:])).astype(np.float32) for t in model.inputs]
    _, pullback = model.vjp(arrays)
    dx, _ = pullback(np.ones((3, 5, 6), np.float32))
    assert dx.all()
    by_hand = model.layers[1](arrays[1], initial_state=model.layers[0](arrays[0])[1:])
    np.testing.assert_array_equal(model.predict(arrays), by_hand)


# ---- errors ---------------------------------------------------------------------------------------------

ZEROS = np.zeros((2, 3, 4), np.float32)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: layers.GRU(0), ValueError, "GRU: argument 'units': expected an int ≥ 1, got 0"),
    (lambda: layers.LSTM(2, "gelu"), ValueError, "LSTM: argument 'activation': expected one of ('linear', 'relu'"),
    (lambda: layers.GRU(2, recurrent_activation="softmax"), ValueError,
     "GRU: argument 'recurrent_activation': expected one of"),
    (lambda: layers.GRU(2, stateful=True), ValueError, "GRU: argument 'stateful': expected False; return_state=True"),
    (lambda: layers.GRU(2, dropout=1.5), ValueError, "GRU: argument 'dropout': expected in [0, 1), got 1.5"),
    (lambda: layers.GRU(2, recurrent_dropout=-1), ValueError, "GRU: argument 'recurrent_dropout': expected in [0, 1)"),
    (lambda: layers.GRU(2, name="g")(ZEROS[0]), ValueError,
     "GRU 'g': expected input (N, T, in) float32, got (3, 4) float32"),
    (lambda: layers.GRU(2, name="g")(ZEROS[:, :0]), ValueError, "GRU 'g': expected at least one step of known number"),
    (lambda: layers.LSTM(2, name="l")(ZEROS, initial_state=np.zeros((2, 2), np.float32)), ValueError,
     "LSTM 'l': argument 'initial_state': expected 2 of (N, 2), got 1"),
    (lambda: layers.LSTM(2, name="l")(ZEROS, initial_state=[np.zeros((2, 3), np.float32)] * 2), ValueError,
     "LSTM 'l': recurrent: argument 'h': expected dimension 1 to be 2, got 3"),
    (lambda: layers.LSTM(2, name="l")(ZEROS, mask=np.ones((2, 4), bool)), ValueError,
     "LSTM 'l': recurrent: argument 'mask': expected dimension 1 to be 3, got 4"),
    (lambda: layers.Bidirectional(layers.Dense(2)), TypeError,
     "Bidirectional: argument 'layer': expected SimpleRNN, GRU or LSTM, got"),
    (lambda: layers.Bidirectional(layers.GRU(2), "max"), ValueError, "Bidirectional: argument 'merge_mode': expected"),
    (lambda: layers.Bidirectional(layers.GRU(2), backward_layer=layers.GRU(2)), ValueError,
     "Bidirectional: argument 'go_backwards': expected one layer with it and one without"),
    (lambda: layers.Bidirectional(layers.GRU(2), backward_layer=layers.GRU(2, go_backwards=True, return_state=True)),
     ValueError, "Bidirectional: argument 'return_state': expected the same of both layers"),
    (lambda: layers.TimeDistributed("dense"), TypeError, "TimeDistributed: argument 'layer': expected a layer, got"),
    (lambda: layers.TimeDistributed(layers.Flatten(), name="t")(ZEROS[0]), ValueError,
     "TimeDistributed 't': expected input (N, T, …), got (3, 4)"),
])
def test_errors(call, error, message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(message)
