#!/usr/bin/env bash
# keras 3.15.1: load_weights gives a .weights.h5 to layers by class and place, not by name: two heads swap silently.
#
# Guess: layers named "old" and "new" get the weights saved under those names; a name that is missing is an error.
# Seen:  the file calls layers dense, dense_1, ... in the order in which the model holds them, whatever they are
#        named. A model that lists its heads in another order, or gave them other names, loads without a word, and each
#        head has the other's weights. Functional models, attributes and lists of layers alike.
# Why it matters: class-incremental networks grow heads and backbones are rebuilt by newer code; names are what one
#        relies on to keep them apart.
# Way out: compare a prediction before and after, or store a dictionary of arrays by layer name.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 jax==0.10.2 numpy==2.4.2
cd "$place"
KERAS_BACKEND=jax "$place/venv/bin/python" - <<'PY'
import keras
import numpy as np
from keras import layers

print("keras", keras.__version__)


class Attributes(keras.Model):
    def __init__(self, order):
        super().__init__()
        for name in order:
            setattr(self, name, layers.Dense(2, name=name))

    def call(self, x):
        return self.old(x), self.new(x)


def functional(order):
    x = keras.Input((3,))
    return keras.Model(x, [layers.Dense(2, name=name)(x) for name in order])


def kernel(model, name):
    return keras.ops.convert_to_numpy(model.get_layer(name).kernel)


for make in (Attributes, functional):
    saved, loaded = make(["old", "new"]), make(["new", "old"])
    for model in (saved, loaded):
        model(np.ones((1, 3), "float32"))
    saved.save_weights("heads.weights.h5")
    loaded.load_weights("heads.weights.h5")
    swapped = np.array_equal(kernel(loaded, "new"), kernel(saved, "old")) and np.array_equal(
        kernel(loaded, "old"), kernel(saved, "new")
    )
    print(f"{make.__name__:10} heads in another order: swapped {swapped}")
    assert swapped, "changed: names count"
saved, renamed = functional(["old", "new"]), functional(["left", "right"])
saved.save_weights("other.weights.h5")
renamed.load_weights("other.weights.h5")
assert np.array_equal(kernel(renamed, "left"), kernel(saved, "old")), "changed: other names are not filled"
print("heads of other names: filled by their place, no error")
PY
