"""Records of benchmarks that never ran, and cases small enough to run."""

from pytensor_convnet.bench.cases import ConvCase, PoolCase
from pytensor_convnet.bench.nets import Conv, Dense, NetCase, Pool
from pytensor_convnet.bench.records import Machine, Record

MACHINE = Machine("A Processor", "Linux x86_64", "3.11.0", 4, 2, {"numpy": "2.0.0"}, 400e9, 200e9, 30e9)

TINY_CONV = ConvCase("tiny", 3, 2, 7, 6, 4, (3, 2), (2, 1), ((1, 1), (0, 0)))
TINY_POOL = PoolCase("tiny", 3, 2, 7, 6, (3, 3), (2, 2), ((1, 1), (1, 1)))
TINY_MEAN = PoolCase("tiny_mean", 3, 2, 7, 6, (3, 3), (2, 2), ((1, 1), (1, 1)), "average_inc_pad")
TINY_NET = NetCase(
    "lenet",
    5,
    (2, 16, 17),
    (Conv(20, 5), Pool(2, 2), "tanh", Conv(50, 5), Pool(2, 2), "tanh", Dense(500), "tanh", Dense(3)),
)


def record(case="lenet1", operation="forward", implementation="pytensor-convnet", layout="bc01", **others):
    facts = {
        "suite": "conv",
        "device": "cpu",
        "dtype": "float32",
        "precision": "ieee",
        "seconds": 1e-3,
        "floor_seconds": 5e-4,
        "relative_error": 1e-7,
        "extra_bytes": 3_000_000,
    }
    return Record(case=case, operation=operation, implementation=implementation, layout=layout, **facts | others)


CONV_RECORDS = [
    record(),
    record(implementation="torch", seconds=4e-3),
    record(implementation="torch", layout="channels_last", seconds=2e-3),
    record(implementation="jax", seconds=8e-3),
    record(operation="input_grad", extra_bytes=5_000_000, relative_error=4e-7),
    record(operation="input_grad", implementation="torch", seconds=0.5e-3),
    record(operation="input_grad", implementation="torch", layout="channels_last", seconds=1e-3),
    record(operation="input_grad", implementation="jax", seconds=0.25e-3),
    record("cifar2", seconds=2e-3),
    record("cifar2", implementation="torch", seconds=8e-3),
    record("cifar2", implementation="torch", layout="channels_last", seconds=4e-3),
    record("cifar2", implementation="jax", seconds=16e-3),
]
