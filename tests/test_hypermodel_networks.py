"""Networks of somebody's code as others load them: their parts, and what they answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from kerastuner_code import writer_of

from catdog_search.errors import RequestError

SIDE = 16


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a module into the current folder; returns its name."""
    return writer_of(tmp_path, monkeypatch)


def built(name: str) -> Any:
    from catdog_search.kerastuner import networks, targets

    model, _ = targets.build(targets.load(name), {})
    assert networks.settle(model, SIDE) in (None, SIDE)
    networks.require_stock(model)
    # Fresh batch statistics and biases of 0 would hide what is lost.
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "mean" not in weight.name and "variance" not in weight.name and weight.name != "count":
            near = np.abs if "u" in weight.name.split("_") else np.asarray
            weight.assign(weight + near(rng.normal(0, 0.05, weight.shape).astype(np.float32)))
    return model


def photos_of(n: int = 4) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, SIDE, SIDE, 3)).astype(np.uint8)


def said_there(model: Any, photos: np.ndarray) -> np.ndarray:
    """Its logits as it gives them itself."""
    from catdog_search.kerastuner import networks

    return networks.face_of(model).logits(model.predict(photos.astype(np.float32), verbose=0))


def exported_to(path: Path, model: Any) -> Any:
    from catdog_search.kerastuner import networks
    from catdog_search.models.export import exported_model

    network = networks.network_of(model, SIDE)
    exported_model(network, SIDE).save(path)
    return network


# PyTorch has no negative steps.
_BACKWARDS = 1 if keras.backend.backend() == "torch" else -1
BODIES = {
    "divided": "x = x / 255.0",
    "multiplied": "x = x * (1 / 255)",
    "one minus": "x = 1 - x / 255.0",
    "added": "x = ops.add(x, 1.0); x = (x + x) / 900",
    "of an array": "x = x / 255 - np.array([0.1, 0.2, 0.3], 'float32')",
    "mobilenet": "x = keras.applications.mobilenet_v2.preprocess_input(x)",
    "resnet": "x = keras.applications.resnet.preprocess_input(x) / 100",
    "densenet": "x = keras.applications.densenet.preprocess_input(x)",
    "cut": f"x = x[:, 2:-2, 2:-2, ::{_BACKWARDS}] / 255",
    "functions": """
        x = x / 255 - 0.5
        x = ops.concatenate([ops.relu(x), ops.sigmoid(x), ops.silu(x), ops.tanh(x)], -1)
        x = ops.concatenate([ops.leaky_relu(x, 0.3), keras.activations.relu(x, 0.1)], -1)
        x = ops.clip(ops.maximum(x, -x) ** 2, 0, 1) + ops.softmax(x)
        x = ops.concatenate([ops.mean(x, axis=(1, 2)), ops.max(x, axis=(1, 2))], -1)
    """,
    "more functions": """
        x = x / 255 - 0.5
        x = ops.stack([ops.elu(x), ops.gelu(x), ops.hard_sigmoid(x), ops.hard_silu(x)], -1)
        x = ops.stack([ops.log_sigmoid(x), ops.relu6(x), ops.selu(x), ops.softplus(x)], -1)
        x = ops.stack([ops.softsign(x), ops.sqrt(ops.abs(x)), ops.square(x), ops.hard_tanh(x)], -1)
        x = ops.divide(ops.minimum(x, 0.1), ops.min(x, axis=-1, keepdims=True) + 3)
    """,
    "adapted": """
        n = layers.Normalization()
        n.adapt(np.random.RandomState(0).uniform(0, 255, (20, 16, 16, 3)))
        x = n(x)
    """,
    "of known moments": """
        x = layers.Normalization(mean=[120, 110, 100], variance=[10000, 9000, 9500])(x)
    """,
    "of each pixel, and back": """
        n = layers.Normalization(axis=(1, 2, 3))
        n.adapt(np.random.RandomState(0).uniform(0, 255, (20, 16, 16, 3)))
        back = layers.Normalization(axis=None, invert=True)
        back.adapt(np.random.RandomState(0).uniform(0, 3, (20, 16, 16, 3)))
        x = back(n(x))
    """,
    "centre": "x = layers.CenterCrop(12, 12)(x) / 255",
    "spectral": "x = layers.SpectralNormalization(layers.Conv2D(4, 3, activation='relu'))(x / 255)",
    "layers as activations": """
        x = layers.Conv2D(3, 3, activation=layers.LeakyReLU(negative_slope=0.1))(x / 255)
        x = layers.Activation(layers.ELU(0.5))(layers.Softmax()(x))
    """,
    "activations": """
        x = x / 255 - 0.5
        names = ["elu", "exponential", "hard_sigmoid", "hard_silu", "hard_tanh", "mish"]
        names += ["leaky_relu", "log_sigmoid", "relu", "relu6", "selu", "sigmoid", "silu", "tanh"]
        names += ["softmax", "softplus", "softsign"]
        x = layers.Add()([layers.Conv2D(3, 3, activation=name)(x) for name in names])
    """,
    "functions as activations": """
        x = layers.Conv2D(3, 3, activation=lambda x: ops.relu(x))(x / 255)
        x = layers.Conv2D(3, 3, activation=keras.ops.elu)(x)
        x = layers.Conv2D(3, 3, activation="celu")(x)
    """,
}


def code_of(body: str, end: str = "layers.Dense(1, 'sigmoid')(x)") -> str:
    lines = [line.strip() for line in body.strip().splitlines()]
    return "\n".join(
        [
            *("import numpy as np", "from keras import ops", "def build(hp):"),
            *("    i = x = keras.Input((16, 16, 3))", *(f"    {line}" for line in lines)),
            "    x = layers.Flatten()(x)",
            f"    model = keras.Model(i, {end})",
            "    model.compile('adam', 'bce')",
            "    return model",
        ]
    )


@pytest.mark.parametrize("body", BODIES.values(), ids=list(BODIES))
def test_network_of_stock_parts_answers_the_same_when_it_is_loaded(
    module: Callable[..., str], tmp_path: Path, body: str
) -> None:
    from catdog_search.models.export import answers_to
    from catdog_search.models.loading import load_exported
    from catdog_search.training.metrics import probabilities_of

    model = built(f"{module(code_of(body))}:build")
    photos = photos_of()
    said = said_there(model, photos)
    network = exported_to(tmp_path / "model.keras", model)
    here = network.predict(photos.astype(np.float32), verbose=0)[:, 0]
    assert np.allclose(here, said, atol=1e-4)
    loaded = load_exported(tmp_path / "model.keras", SIDE)
    assert np.allclose(answers_to(loaded, photos), probabilities_of(said), atol=1e-4)


def test_networks_of_all_these_parts_answer_the_same_in_onnxruntime(
    module: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_exporting import FACTS

    from catdog_search.answering.runtime import OnnxModel
    from catdog_search.exporting import proof
    from catdog_search.exporting.onnx_file import to_onnx
    from catdog_search.kerastuner import networks
    from catdog_search.models.export import calibrated_model, exported_model
    from catdog_search.models.neither import neither_model

    monkeypatch.setattr(proof, "N_PHOTOS", 12)
    bodies = [
        networks.network_of(built(f"{module(code_of(body), f'own{n}')}:build"), SIDE)
        for n, body in enumerate(BODIES.values())
    ]
    spectral = bodies[list(BODIES).index("spectral")]
    neither = neither_model(exported_model(spectral, SIDE), photos_of(60))
    model = calibrated_model(bodies, SIDE, temperature=1.7)
    made = to_onnx(model, neither, FACTS.model_copy(update={"image_size": SIDE}))
    assert (made.proof.n, made.proof.different) == (12, 0)
    assert made.proof.worst < 1e-4
    assert made.proof.worst_score is not None
    photos = np.random.default_rng(0).integers(0, 256, (3, 50, 41, 3), np.uint8)
    said, _ = OnnxModel(made.content, "own").run(photos)
    assert said == pytest.approx(np.ravel(model.predict(photos, verbose=0)), abs=1e-4)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("x = layers.RandomCrop(12, 12)(x)", "is a RandomCrop, which can't be exported"),
        ("x = layers.Conv2D(3, 3, activation=lambda x: x + 1)(x)", "an activation of its own"),
        ("x = layers.Conv2D(3, 3, activation=layers.PReLU())(x)", "an activation of its own"),
        (
            "x = layers.SpectralNormalization(layers.Conv2D(3, 3, activation=lambda x: 2 * x))(x)",
            "an activation of its own",
        ),
        ("x = layers.CenterCrop(20, 20)(x)", "crops to more than its input has"),
        ("x = ops.cumsum(x, 1)", "its network computes Cumsum outside of layers"),
    ],
)
def test_part_that_others_couldnt_load_is_refused_in_a_line(
    module: Callable[..., str], body: str, says: str
) -> None:
    with pytest.raises(RequestError, match=says) as refused:
        built(f"{module(code_of(body))}:build")
    assert "\n" not in str(refused.value)


def test_function_that_only_has_a_stock_name_is_not_taken_for_it(
    module: Callable[..., str],
) -> None:
    own = module(
        "def relu(x): return x * x\n" + code_of("x = layers.Conv2D(3, 3, activation=relu)(x)")
    )
    with pytest.raises(RequestError, match="an activation of its own"):
        built(f"{own}:build")


@pytest.mark.parametrize(
    ("end", "units", "activation"),
    [
        ("layers.Dense(2, layers.Softmax())(x)", 2, "softmax"),
        ("ops.sigmoid(layers.Dense(1)(x))", 1, "sigmoid"),
        ("ops.softmax(layers.Dense(2)(x))", 2, "softmax"),
    ],
)
def test_last_activation_may_be_a_layer_or_an_operation(
    module: Callable[..., str], tmp_path: Path, end: str, units: int, activation: str
) -> None:
    from catdog_search.kerastuner import networks

    model = built(f"{module(code_of('x = x / 255', end))}:build")
    face = networks.face_of(model)
    assert (face.units, face.activation) == (units, activation)
    photos = photos_of()
    here = exported_to(tmp_path / "model.keras", model).predict(photos.astype("float32"), verbose=0)
    assert np.allclose(here[:, 0], said_there(model, photos), atol=1e-4)


def test_loss_of_their_own_is_left_out_of_what_is_exported(
    module: Callable[..., str], tmp_path: Path
) -> None:
    text = code_of("x = x / 255").replace("'bce'", "my_loss")
    own = module("def my_loss(t, p): return keras.losses.binary_crossentropy(t, p)\n" + text)
    model = built(f"{own}:build")
    photos = photos_of()
    here = exported_to(tmp_path / "model.keras", model).predict(photos.astype("float32"), verbose=0)
    assert np.allclose(here[:, 0], said_there(model, photos), atol=1e-4)
