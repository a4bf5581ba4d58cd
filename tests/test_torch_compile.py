"""Models that PyTorch compiles: in one graph, once, with the same outputs and gradients."""

import keras
import numpy as np
import pytest

from sepconv_layers import SeparableConvBlock2D, single_graph
from tests.backends import BACKEND

pytestmark = [
    pytest.mark.skipif(BACKEND != "torch", reason="is about PyTorch"),
    pytest.mark.filterwarnings("ignore:.*functools.lru_cache"),
]


def make_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 9, 3)),
            SeparableConvBlock2D(4),
            SeparableConvBlock2D(6, strides=2, kernel_size=5),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )


@pytest.mark.parametrize("training", [False, True])
def test_a_model_is_one_graph_that_is_compiled_once(training):
    import torch

    model = make_model()
    assert single_graph(single_graph(model)) is model
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 8, 9, 3)).astype("float32"))

    def gradients(call):
        model.zero_grad()
        outputs = call(x)
        outputs.square().sum().backward()
        return outputs.detach(), [weight.value.grad.clone() for weight in model.trainable_weights]

    expected = gradients(lambda x: model(x, training=training))
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: model(x, training=training), backend="eager", fullgraph=True)
    for _ in range(2):
        with torch._dynamo.config.patch(error_on_recompile=True):
            torch.testing.assert_close(gradients(compiled), expected, rtol=1e-4, atol=1e-5)


def test_a_prepared_model_is_saved_as_before(tmp_path):
    model = single_graph(make_model())
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    x = np.ones((1, 8, 9, 3), "float32")
    np.testing.assert_allclose(again.predict(x, verbose=0), model.predict(x, verbose=0))


def test_a_prepared_layer_still_checks_its_arguments():
    model = single_graph(make_model())
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        model.layers[0](np.ones((1, 8, 9, 3), "float32"), wrong=1)


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match="`model` must be a Keras model. Received: function"):
        single_graph(make_model)
