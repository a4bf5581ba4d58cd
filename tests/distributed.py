"""A process of `test_distribution`: it trains small nets on several devices, and prints as JSON.

    python -m tests.distributed devices
    python -m tests.distributed process OUTPUT [EPOCH]
    python -m tests.distributed ddp RANK PORT

The first has two devices, of TensorFlow or JAX, and trains on one and on both. The second is one of
two processes on JAX, and kills itself in an epoch if it is told to. The third is one of two
processes of PyTorch.
"""

import json
import os
import re
import signal
import sys
from functools import partial
from unittest import mock

import keras
import numpy as np
from keras import layers

import sepconv_layers as sl
from sepconv_layers.comparison import experiment

SHAPE, CLASSES, BATCH, EPOCHS = (9, 4), 3, 8, 3
SIZES = {"train": 37, "val": 13, "test": 11}  # which two devices cannot share evenly
TIMES = {"infer_ms": {1: 1.0}, "infer_mode": {1: "xla"}, "train_step_ms": 1.0, "train_mode": "xla"}
MOVING_DATA = r"(?:collective-permute|all-gather|all-to-all)[\w-]*\("


class Samples:
    """Samples by index that end their process when an epoch begins."""

    def __init__(self, inputs, last=None):
        self.inputs, self.last, self.reads = inputs, last, 0

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        is_of_epoch = isinstance(index, np.ndarray) and len(index) > 1
        self.reads += is_of_epoch
        if self.last is not None and self.reads > self.last * len(self.inputs) // BATCH + 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inputs[index]

    def digest(self):
        return "samples"


def data(last=None):
    random = np.random.default_rng(0)
    parts = {}
    for name, size in SIZES.items():
        labels = random.integers(CLASSES, size=size)
        inputs = random.normal(size=(size, *SHAPE)) + labels[:, None, None]
        parts[name] = Samples(inputs.astype("float32"), last if name == "train" else None), labels
    return parts


def build(conv):
    block = {"separable": sl.SeparableConvBlock1D, "standard": sl.ConvBlock1D}[conv]
    # Devices with an order of their own draw other numbers.
    drops = [layers.Dropout(0.2)] if keras.backend.backend() == "jax" else []
    head = [layers.GlobalAveragePooling1D(), layers.Dense(CLASSES)]
    return keras.Sequential([keras.Input(SHAPE), block(6, 3), *drops, *head])


def record(distribution, output=None, last=None, **settings):
    """What a comparison finds, without times, and its history."""
    settings = {"batch_size": BATCH, "epochs": EPOCHS, "ema_momentum": 0.9} | settings
    untimed = {"times_of": lambda build, convs, setup: dict.fromkeys(convs, TIMES)}
    with mock.patch.multiple(experiment, **untimed):
        seen = []
        with mock.patch.object(experiment, "run", partial(_run, seen, experiment.run)):
            found = sl.compare(
                build,
                data(last),
                convs="separable",
                seeds=1,
                infer_batch_sizes=[1],
                progress=False,
                output=output,
                distribution=distribution,
                **settings,
            )
    (row,) = found.rows
    history = [[epoch["loss"], epoch["val_loss"], epoch["val_accuracy"]] for epoch in seen[0]]
    return {"history": history, "accuracy": row.accuracy["per_seed"], "budget": found.budget}


def _run(seen, run, *args):
    result, seconds = run(*args)
    seen.append(result["history"])
    return result, seconds


def devices():
    """Trains on one device and on two; on TensorFlow also in the scope of a strategy."""
    found = {"one": record(None), "two": record("auto")}
    if keras.backend.backend() == "jax":
        with keras.distribution.DataParallel().scope():
            found["around"] = record(None)
        found["moved"] = {str(shape): moved(shape) for shape in ((7, 7, 8), (98, 4))}
        found["refused"] = refusal(batch_size=7)
    else:
        import tensorflow as tf

        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            found["around"] = record(None)
        found["refused"] = refusal(batch_size=12)
    return found


def refusal(**settings):
    try:
        record("auto", **settings)
    except ValueError as error:
        return str(error)


def moved(shape):
    """The operations of a training step on two devices that move parts of a batch."""
    import jax

    block = {1: sl.SeparableConvBlock1D, 2: sl.SeparableConvBlock2D}[len(shape) - 1]
    model = keras.Sequential([keras.Input(shape), block(8, 3), block(12, 5, strides=2)])

    def loss(weights, others, inputs):
        outputs, others = model.stateless_call(weights, others, inputs, training=True)
        return keras.ops.mean(outputs**2), others

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
    inputs = jax.device_put(
        np.ones((16, *shape), "float32"),
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")),
    )
    weights = [[weight.value for weight in some]
               for some in (model.trainable_variables, model.non_trainable_variables)]  # fmt: skip
    step = jax.jit(jax.grad(loss, has_aux=True)).lower(*weights, inputs).compile()
    return re.findall(MOVING_DATA, step.as_text())


def process(output, last=None):
    if "KERAS_DISTRIBUTION_PROCESS_ID" in os.environ:
        keras.distribution.initialize()
    return record("auto", output, None if last is None else int(last))


def ddp(rank, port):
    """Losses and statistics of a training by PyTorch's own loop: of one process, and of two."""
    import torch

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    alone = steps(lambda model: model, slice(None))
    torch.distributed.init_process_group("gloo", rank=int(rank), world_size=2)
    together = steps(torch.nn.parallel.DistributedDataParallel, slice(int(rank), None, 2))
    return {"alone": alone, "together": together, "refused": refusal()}


def steps(wrapped, share):
    import torch

    keras.utils.set_random_seed(0)
    block = partial(
        sl.SeparableConvBlock1D,
        6,
        3,
        normalization=partial(sl.BatchNormalization, synchronized=True),
    )
    head = [layers.GlobalAveragePooling1D(), layers.Dense(CLASSES)]
    model = keras.Sequential([keras.Input(SHAPE), block(), block(), *head])
    net = wrapped(model)
    trained = [weight.value for weight in model.trainable_variables]
    optimizer = torch.optim.SGD(trained, lr=0.5)
    inputs, labels = data()["train"]
    losses = []
    for start in range(0, 32, BATCH):
        x, y = inputs[start : start + BATCH], labels[start : start + BATCH]
        optimizer.zero_grad()
        outputs = net(torch.tensor(x[share]), training=True)
        torch.nn.functional.cross_entropy(outputs, torch.tensor(y[share])).backward()
        optimizer.step()
        losses.append(float(torch.nn.functional.cross_entropy(
            model(torch.tensor(x), training=False), torch.tensor(y)
        )))  # fmt: skip
    moving = [weight.numpy().tolist() for weight in model.non_trainable_variables]
    return {"losses": losses, "statistics": sum(moving, [])}


if __name__ == "__main__":
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, 2 * [tf.config.LogicalDeviceConfiguration()]
        )
    name, *arguments = sys.argv[1:]
    found = {"devices": devices, "process": process, "ddp": ddp}[name](*arguments)
    print(json.dumps(found))
