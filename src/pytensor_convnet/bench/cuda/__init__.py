"""The benchmark on an NVIDIA GPU: torch tensors, CUDA graphs instead of wall clocks, and cuDNN and XLA as peers.

`timing` says how a call is timed and what the GPU can do, `conv` what is measured, `session` runs it, `table` shows it.
"""
