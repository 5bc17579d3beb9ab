"""Doctests of the CUDA kernels, their benchmark and their front door are collected where their libraries are."""

from importlib.util import find_spec

cuda = ["pytensor_convnet/kernels/cuda/*", "pytensor_convnet/bench/cuda/*", "pytensor_convnet/torch/*_operators.py"]
collect_ignore_glob = [] if find_spec("torch") and find_spec("triton") else cuda
if not find_spec("torch"):
    collect_ignore_glob += ["pytensor_convnet/torch/*"]
