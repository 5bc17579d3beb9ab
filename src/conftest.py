"""Doctests of the CUDA kernels and their benchmark are collected where their libraries are installed."""

from importlib.util import find_spec

cuda = ["pytensor_convnet/kernels/cuda/*", "pytensor_convnet/bench/cuda/*"]
collect_ignore_glob = [] if find_spec("torch") and find_spec("triton") else cuda
