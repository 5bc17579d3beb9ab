"""Doctests of what needs torch, and of what needs Triton too, are collected where these libraries are."""

from importlib.util import find_spec

torchs = ["pytensor_convnet/torch/*", "pytensor_convnet/cuda/*", "pytensor_convnet/lowering/cuda/*"]
tritons = [
    "pytensor_convnet/kernels/cuda/*",
    "pytensor_convnet/bench/cuda/*",
    "pytensor_convnet/torch/*_operators.py",
    "pytensor_convnet/lowering/cuda/operators.py",
]
collect_ignore_glob = [] if find_spec("torch") and find_spec("triton") else tritons
if not find_spec("torch"):
    collect_ignore_glob += torchs
