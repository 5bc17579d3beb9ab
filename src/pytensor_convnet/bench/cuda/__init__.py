"""The benchmark on an NVIDIA GPU: torch tensors, CUDA graphs instead of wall clocks, and cuDNN and XLA as peers.

`timing` says how a call is timed and what the GPU can do, `conv` what is measured, `session` runs it, `table` shows it;
`pool`, `pool_session` and `pool_table` do the same for pooling, and `chart` draws both; for networks there are `net`,
with its peers in `net_torch` and `net_jax`, `net_trainees`, which gives each a process of its own, `net_session` and
`net_table`. `findings` keeps what any of them finds.
"""
