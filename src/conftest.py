"""Doctests of what needs torch, torch and Triton, JAX, or MLX, are collected where these libraries are."""

from importlib.util import find_spec

torchs = [
    "pytensor_convnet/torch/*",
    "pytensor_convnet/cuda/*",
    "pytensor_convnet/lowering/cuda/*",
    "pytensor_convnet/lowering/pytorch.py",
    "pytensor_convnet/lowering/torch_operations.py",
]
tritons = [
    "pytensor_convnet/kernels/cuda/*",
    "pytensor_convnet/bench/cuda/*",
    "pytensor_convnet/torch/*_operators.py",
    "pytensor_convnet/lowering/cuda/operators.py",
]
collect_ignore_glob = [] if find_spec("torch") and find_spec("triton") else tritons
if not find_spec("torch"):
    collect_ignore_glob += torchs
for library in ("jax", "mlx"):
    if not find_spec(library):
        collect_ignore_glob += [f"pytensor_convnet/lowering/{library}.py"]
