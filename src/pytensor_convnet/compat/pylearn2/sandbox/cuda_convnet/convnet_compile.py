"""``pylearn2.sandbox.cuda_convnet.convnet_compile``."""

from pytensor_convnet.compat.mirror import mirror


def convnet_available() -> bool:
    """True: there is nothing to compile, the operators can be used."""
    return True


__getattr__, __dir__ = mirror(__name__)
