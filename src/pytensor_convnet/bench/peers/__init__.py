"""One adapter for each implementation. Importing this loads none of the libraries."""

from pytensor_convnet.bench.peers.base import Peer
from pytensor_convnet.bench.peers.jax import Jax
from pytensor_convnet.bench.peers.pytensor_ml import PytensorMl
from pytensor_convnet.bench.peers.torch import Torch

__all__ = ["PEERS", "Peer"]

PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Torch, Jax, PytensorMl)}
"""What is measured beside this package, by name."""
