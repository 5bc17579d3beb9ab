"""One adapter for each implementation. Importing this loads none of the libraries."""

from pytensor_convnet.bench.peers.base import Peer
from pytensor_convnet.bench.peers.jax import Jax
from pytensor_convnet.bench.peers.pytensor_ml import PytensorMl
from pytensor_convnet.bench.peers.torch import Torch

__all__ = ["GPU_PEERS", "PEERS", "Peer", "peers_of"]

PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Torch, Jax, PytensorMl)}
"""What is measured beside this package, by name."""

GPU_PEERS = ("torch", "jax")
"""Those that `bench.cuda` measures on a GPU."""


def peers_of(suite: str) -> tuple[str, ...]:
    """The names of the peers that take part in a suite.

    Examples
    --------
    >>> peers_of("conv")
    ('torch', 'jax')
    """
    return tuple(name for name, peer in PEERS.items() if suite in peer.suites)
