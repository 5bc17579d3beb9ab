"""Doctests of the CUDA kernels are collected where their libraries are installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") and find_spec("triton") else ["pytensor_convnet/kernels/cuda/*"]
