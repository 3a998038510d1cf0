"""`fit(decay="auto")`: what it chooses is what the model then trains with, from the weights it had."""

from __future__ import annotations

import numpy as np
import pytest

from wdfast import callbacks, data, decay, initializers, losses, models, nets, optimizers, schedules


def compiled(rate: object = 3e-3, own: decay.Decay | None = None) -> models.Model:
    model = nets.build("mlp", (8, 8, 1), 10, mean=[5], std=[6])
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizers.AdamW(rate, decay=own), loss, ["accuracy"])
    return model


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    images = data.load("digits")
    return images.x_train[:240], images.y_train[:240]


def test_the_model_trains_with_the_choice_from_its_own_weights(digits) -> None:
    x, y = digits
    with initializers.seeded(3):
        model = compiled()
    start = model.get_weights()
    model.fit(x, y, epochs=4, seed=1, verbose=0, decay="auto")
    chosen = model.search.one_se
    assert model.optimizer.decay == chosen
    assert model.optimizer.iterations == 4 * 8
    again = compiled(own=chosen)
    again.set_weights(start)
    again.fit(x, y, epochs=4, seed=1, verbose=0)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shuffle", [True, False])
def test_each_candidate_begins_with_the_models_weights(digits, shuffle: bool) -> None:
    x, y = digits
    model = compiled()
    start = model.get_weights()
    model.fit(x, y, epochs=4, seed=1, verbose=0, decay="auto", validation_split=0.25, shuffle=shuffle)
    best = model.search.best_row
    alone = compiled(own=best.candidate.decay)
    alone.set_weights(start)
    history = alone.fit(x[:180], y[:180], epochs=4, seed=1, verbose=0, validation_data=(x[180:], y[180:]),
                        shuffle=shuffle).history
    assert best.seeds[0] == 1
    assert best.scores[0] == pytest.approx(history["val_loss"][-1], rel=1e-6)  # other batches of evaluation
    np.testing.assert_array_equal(best.curves["loss"][0], history["loss"])


def test_a_scheduler_acts_in_the_search_too(digits) -> None:
    x, y = digits
    model = compiled()
    stop = callbacks.LearningRateScheduler(lambda epoch: 1e-3 if epoch < 1 else 0.0)
    model.fit(x, y, epochs=4, seed=1, verbose=0, decay="auto", callbacks=[stop])
    losses_after = model.search.best_row.curves["val_loss"]
    np.testing.assert_array_equal(losses_after[:, 1:-1], losses_after[:, 2:])  # a rate of 0 changes nothing


def test_schedules_survive(digits) -> None:
    x, y = digits
    model = compiled(schedules.Linear(3e-3, 32))
    model.fit(x, y, epochs=4, seed=1, verbose=0, decay="auto")
    assert model.optimizer.learning_rate == pytest.approx(0.0)


def test_what_cannot_be_is_refused_before_anything_changes(digits) -> None:
    x, y = digits
    model = compiled()
    before = model.get_weights()
    with pytest.raises(ValueError, match="argument 'decay': expected 'auto'"):
        model.fit(x, y, decay=0.1, verbose=0)
    with pytest.raises(ValueError, match="argument 'x'"):
        model.fit(x[:, :4], y, decay="auto", verbose=0)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
