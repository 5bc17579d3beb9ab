"""Theano and pylearn2 under their old names, so that programs of 2012-2017 run on PyTensor with our operators.

Three ways in:

    from pytensor_convnet.compat.theano.tensor.nnet import conv2d     a prefix before each old import
    pytensor_convnet.compat.install()                                  old imports work in this process
    python -m pytensor_convnet.compat SCRIPT [ARGS]                    an unmodified script

``compat/theano`` and ``compat/pylearn2`` mirror the modules that convolutional programs imported. A mirror holds what
PyTensor lacks or means otherwise; any other name is PyTensor's. ``docs/migrating.md`` lists old names and new ones.
"""

from pytensor_convnet.compat.finder import explain_missing_modules, install, uninstall

__all__ = ["install", "uninstall"]

explain_missing_modules()
