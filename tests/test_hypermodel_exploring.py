"""Somebody's code looked at before it trains: what it asks, which labels and photos it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kerastuner_code import TABLE, explored, writer_of

from catdog_search.errors import RequestError, StudyFileError
from catdog_search.families import hypermodel
from catdog_search.study import studies


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a module into the current folder; returns its name."""
    return writer_of(tmp_path, monkeypatch)


NESTED = """
def build(hp):
    inputs, x = flat()
    if hp.Boolean("a"):
        if hp.Boolean("b"):
            if hp.Boolean("c"):
                hp.Int("deep", 2, 8)
    return compiled(x, inputs)
"""
LOOPS = """
def build(hp):
    inputs, x = flat()
    for i in range(hp.Int("stages", 1, 4)):
        for j in range(hp.Int(f"convs_{i}", 1, 3)):
            hp.Int(f"filters_{i}_{j}", 4, 8, step=4)
    return compiled(x, inputs)
"""
SAME_NAME = """
def build(hp):
    inputs, x = flat()
    kind = hp.Choice("kind", ["linear", "cnn", "mlp"])
    for each in ("cnn", "mlp"):
        with hp.conditional_scope("kind", [each]):
            if kind == each:
                for i in range(hp.Int("layers", 1, 3)):
                    hp.Int(f"{each}_{i}", 4, 8)
    return compiled(x, inputs)
"""
# The same, without saying so.
SAME_NAME_UNSAID = """
def build(hp):
    inputs, x = flat()
    kind = "cnn" if hp.Boolean("pictures") else "mlp"
    for i in range(hp.Int("layers", 1, 3)):
        hp.Int(f"{kind}_{i}", 4, 8)
    return compiled(x, inputs)
"""
BOTH = """
def build(hp):
    inputs, x = flat()
    if all([hp.Boolean(name) for name in "abcdef"]):
        hp.Int("deep", 2, 8)
    return compiled(x, inputs)
"""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (NESTED, {"a", "b", "c", "deep"}),
        (LOOPS, {"stages", *(f"filters_{i}_{j}" for i in range(4) for j in range(3))}),
        (SAME_NAME, {"kind", *(f"{kind}_{i}" for kind in ("cnn", "mlp") for i in range(3))}),
        (SAME_NAME_UNSAID, {f"{kind}_{i}" for kind in ("cnn", "mlp") for i in range(3)}),
        (BOTH, {"deep"}),
    ],
    ids=["nested", "loops", "same name", "same name unsaid", "all at once"],
)
def test_params_that_only_others_reveal_are_found(
    module: Callable[..., str], text: str, names: set[str]
) -> None:
    code = explored(f"{module(text)}:build")
    assert names <= set(code.space.dimensions)
    assert not code.notes


def test_bound_of_networks_is_told(
    module: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from catdog_search.kerastuner import exploring

    monkeypatch.setattr(exploring, "_MOST_BUILDS", 3)
    own = module("""
    def build(hp):
        inputs, x = flat()
        for i in range(6):
            hp.Boolean(f"p{i}")
        return compiled(x, inputs)
    """)
    [note] = explored(f"{own}:build").notes
    assert note.startswith("looked at 3 networks, the most that are")
    assert "say so" in note


TWO_PHASES = """
class Own(kt.HyperModel):
    def build(self, hp):
        inputs, x = flat()
        return compiled(x, inputs, {loss}, 2, None)

    def fit(self, hp, model, *args, **kwargs):
        history = model.fit(*args, **kwargs)
        best = max(history.history["val_accuracy"])
        hp.Int("unfreeze", 10, 50, step=20)
        model.compile(
            keras.optimizers.Adam(hp.Float("ft_lr", 1e-5, 1e-3, sampling="log")),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True, name="xent"))
        while best < 0.9:
            best = model.fit(*args, initial_epoch=history.epoch[-1], **kwargs).history["auc"][-1]
        return best
"""
OWN_LOOP = """
class Own(kt.HyperModel):
    def build(self, hp):
        inputs, x = flat()
        return keras.Model(inputs, layers.Dense(2)(x))

    def fit(self, hp, model, x, y, validation_data, callbacks=(), **kwargs):
        loss = keras.losses.{loss}(from_logits=True)
        hp.Int("batch_size", 2, 4)
        for callback in callbacks:
            callback.set_model(model)
        float(loss(y, model(x)))
        for callback in callbacks:
            callback.on_epoch_end(0, logs={{}})
"""


def test_fit_of_two_phases_is_looked_at_to_its_end(module: Callable[..., str]) -> None:
    loss = "keras.losses.SparseCategoricalCrossentropy(from_logits=True)"
    code = explored(f"{module(TWO_PHASES.replace('{loss}', loss))}:Own")
    assert set(code.space.dimensions) == {"unfreeze", "ft_lr"}
    assert code.labels is None  # its loss says so


@pytest.mark.parametrize(
    ("loss", "labels"),
    [("SparseCategoricalCrossentropy", "integers"), ("CategoricalCrossentropy", "one-hot")],
)
def test_loop_of_their_own_gets_the_labels_that_it_takes(
    module: Callable[..., str], loss: str, labels: str
) -> None:
    code = explored(f"{module(OWN_LOOP.format(loss=loss))}:Own")
    assert set(code.space.dimensions) == {"batch_size"}
    assert code.labels == labels
    assert code.trial({"batch_size": 2}, 16).labels == labels
    assert hypermodel.read(hypermodel.tell(code)) == code


def test_loop_that_takes_no_labels_of_ours_is_refused(module: Callable[..., str]) -> None:
    text = OWN_LOOP.format(loss="CategoricalCrossentropy")
    text = text.replace("loss(y,", "loss(y[:, None, None],")
    with pytest.raises(
        RequestError, match=r"its fit trains on labels of no form \(integers: "
    ) as no:
        explored(f"{module(text)}:Own")
    assert "\n" not in str(no.value)


def test_loss_that_only_its_fit_compiles_says_what_labels_it_takes(
    module: Callable[..., str],
) -> None:
    text = TWO_PHASES.replace("return compiled(x, inputs, {loss}, 2, None)", "PLACE").replace(
        "PLACE", "return keras.Model(inputs, layers.Dense(2)(x))"
    )
    assert explored(f"{module(text)}:Own").labels == "integers"


def test_fit_that_takes_a_dataset_for_photos_is_refused(module: Callable[..., str]) -> None:
    own = module("""
    class Own(kt.HyperModel):
        def build(self, hp):
            inputs, x = flat()
            return compiled(x, inputs)
        def fit(self, hp, model, train_ds, validation_data=None, **kwargs):
            return model.fit(train_ds, validation_data=validation_data, **kwargs)
    """)
    with pytest.raises(RequestError, match=r"hands photos to model\.fit without labels"):
        explored(f"{own}:Own")


LOSSES = """
from keras import losses, ops

class Sub(losses.SparseCategoricalCrossentropy): pass
class Mine(losses.Loss):
    def call(self, t, p): return losses.categorical_crossentropy(t, p, from_logits=True)
class Other(losses.Loss):
    def __init__(self, of): super().__init__(name="sparse"); self.of = of
    def call(self, t, p): return self.of(t, p)
def sparse_not(t, p): return losses.categorical_crossentropy(t, p)
def plain(t, p): return losses.sparse_categorical_crossentropy(t, p)
def with_logits(t, p): return losses.sparse_categorical_crossentropy(t, p, from_logits=True)
def hot(t, p): return losses.categorical_crossentropy(ops.one_hot(ops.cast(t, "int32"), 2), p)
def build(hp):
    inputs, x = flat()
    return compiled(x, inputs, {loss}, 2, {activation})
"""


def with_loss(module: Callable[..., str], loss: str, activation: str | None) -> Any:
    """The network that `LOSSES` builds."""
    from catdog_search.kerastuner import targets

    text = LOSSES.replace("{loss}", loss).replace("{activation}", repr(activation))
    model, _ = targets.build(targets.load(f"{module(text)}:build"), {})
    return model


@pytest.mark.parametrize(
    ("loss", "activation", "form"),
    [
        ("losses.SparseCategoricalCrossentropy(from_logits=True, name='x')", None, "integers"),
        ("Sub(from_logits=True)", None, "integers"),
        ("with_logits", None, "integers"),
        ("Mine()", None, "one-hot"),
        ("plain", "softmax", "integers"),
        ("Other(plain)", "softmax", "integers"),
        ("Other(sparse_not)", "softmax", "one-hot"),
        ("hot", "softmax", "integers"),
        ("{'dense': plain}", "softmax", "integers"),
        ("[sparse_not]", "softmax", "one-hot"),
        ("losses.CategoricalFocalCrossentropy(label_smoothing=0.1)", "softmax", "one-hot"),
        ("losses.BinaryFocalCrossentropy(from_logits=True, label_smoothing=0.4)", None, "one-hot"),
        ("'kl_divergence'", "softmax", "one-hot"),
        ("'categorical_hinge'", "softmax", "one-hot"),
        ("'mse'", "softmax", "one-hot"),
    ],
)
def test_labels_take_the_form_that_the_loss_accepts(
    module: Callable[..., str], loss: str, activation: str | None, form: str
) -> None:
    from catdog_search.kerastuner import networks

    model = with_loss(module, loss, activation)
    assert networks.face_of(model).form == form


@pytest.mark.parametrize(
    ("loss", "activation", "says"),
    [
        ("plain", None, "its loss takes no logits"),
        ("'categorical_hinge'", None, "its loss takes no logits"),
        ("lambda t, p: losses.mse(t[:, 0, 0], p)", "softmax", "neither one-hot nor as integers"),
        ("'no_such_loss'", "softmax", "'no_such_loss' is none that Keras knows"),
    ],
)
def test_loss_that_takes_nothing_of_ours_is_refused(
    module: Callable[..., str], loss: str, activation: str | None, says: str
) -> None:
    from catdog_search.kerastuner import networks

    model = with_loss(module, loss, activation)
    if "no_such" in loss:
        model.loss = "no_such_loss"
    with pytest.raises(RequestError, match=says):
        networks.face_of(model)


BLOCKS = """
def build(hp):
    model = keras.Sequential()
    for i in range(hp.Int("blocks", {least}, {most})):
        model.add(layers.Conv2D(2, 3, activation="relu"))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(1, activation="sigmoid"))
    model.compile("adam", "binary_crossentropy")
    return model
"""
BACKBONE = """
def build(hp):
    base = keras.Sequential([keras.Input((40, 40, 3)), layers.Conv2D(2, 3)])
    model = keras.Sequential([
        layers.Rescaling(1 / 127.5), layers.RandomFlip(), base, layers.GlobalAveragePooling2D(),
        layers.Dropout(hp.Float("dropout", 0, 0.5)), layers.Dense(1, activation="sigmoid")])
    model.compile("adam", "binary_crossentropy")
    return model
"""


def test_size_of_a_network_within_is_the_photos(module: Callable[..., str]) -> None:
    assert explored(f"{module(BACKBONE)}:build").image_sizes == (40,)


def test_value_that_needs_larger_photos_is_told(module: Callable[..., str]) -> None:
    own = f"{module(BLOCKS.format(least=1, most=6))}:build"
    code = explored(own)
    assert code.image_size is None
    note = code.notes[0]
    assert "can't be built for photos of 64 px" in note
    assert 'image_size = 224 would do; so for {"blocks": 6}, which trials learn' in note
    assert explored(own, 224).notes == ()


def test_photos_grow_until_the_first_network_can_be_built(module: Callable[..., str]) -> None:
    own = f"{module(BLOCKS.format(least=5, most=5))}:build"
    code = explored(own)
    assert code.image_sizes == (96,)
    assert "so they are 96 px, unless a study file sets image_size" in code.notes[0]
    assert explored(own, 160).image_sizes == ()
    with pytest.raises(RequestError, match=r"photos of 64 px: .*; image_size = 96 would do"):
        explored(own, 64)


def test_study_file_says_how_large_photos_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def find(name: str, side: int | None) -> None:
        asked.append((name, side))
        raise RequestError("enough")

    monkeypatch.setattr(hypermodel, "find", find)
    for said in ({}, {"image_size": 96}, {"image_size": True}, {"image_size": 1}):
        with pytest.raises(StudyFileError):
            studies.parse({**TABLE, **said}, "own.toml")
    assert asked[:2] == [("own:build", None), ("own:build", 96)]
    assert all(side is None for _, side in asked[2:])


@pytest.mark.parametrize(
    "error", ["sys.exit('no')", "raise BaseException('no')", "raise ValueError"]
)
def test_code_that_would_end_the_process_is_told(module: Callable[..., str], error: str) -> None:
    own = module(f"""
    import sys
    def build(hp):
        inputs, x = flat()
        if hp.Int("u", 1, 8) > 7:
            {error}
        return compiled(x, inputs)
    """)
    notes = explored(f"{own}:build").notes
    assert len(notes) == 1
    assert notes[0].endswith('for {"u": 8}')


def test_decorated_build_is_taken_for_what_it_wraps(module: Callable[..., str]) -> None:
    own = module("""
    def timed(function):
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)
        return wrapper
    @timed
    def build(hp):
        inputs, x = flat()
        return compiled(x, inputs, hp.Choice("loss", ["mse"]))
    def first(*args):
        return build(args[0])
    @timed
    def factory():
        return build
    """)
    for name in ("build", "first", "factory"):
        assert set(explored(f"{own}:{name}").space.dimensions) == {"loss"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"pruner": {"name": "median"}}, r"\[pruner\] name must be \"none\", not 'median'"),
        ({"trials": 0}, "trials"),
        ({"direction": "minimize"}, "direction"),
    ],
)
def test_mistakes_of_a_file_are_told_before_its_code_is_run(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr(hypermodel, "find", None)
    sampler = {"sampler": {"name": "kt-hyperband"}}
    with pytest.raises(StudyFileError, match=says):
        studies.parse({**TABLE, **sampler, **more}, "own.toml")
