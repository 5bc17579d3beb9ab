"""``theano.configparser``."""

from pytensor_convnet.compat.configuration import Configuration, config
from pytensor_convnet.compat.mirror import mirror

change_flags = config.change_flags
TheanoConfigParser = Configuration

__getattr__, __dir__ = mirror(__name__, "pytensor.configparser")
