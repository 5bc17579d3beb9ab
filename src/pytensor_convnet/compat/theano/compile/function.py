"""``theano.function``: `pytensor.function` with what Theano's could besides."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytensor

from pytensor_convnet.compat.configuration import config
from pytensor_convnet.compat.device import OnHost, open_mode
from pytensor_convnet.compat.mirror import note_once
from pytensor_convnet.compat.theano.compile.io import In  # noqa: F401  (for the example below)


def function(
    inputs: Sequence[Any],
    outputs: Any = None,
    mode: Any = None,
    updates: Any = None,
    givens: Any = None,
    no_default_updates: bool | list = False,
    accept_inplace: bool = False,
    name: str | None = None,
    rebuild_strict: bool = True,
    allow_input_downcast: bool | None = None,
    profile: Any = None,
    on_unused_input: str | None = None,
) -> Any:
    """Compile a function of ``inputs`` that computes ``outputs`` and updates shared variables.

    Parameters
    ----------
    inputs : list of variables or In
        An `In` may have a default value.
    outputs : variable, list of variables, or dict of str and variables, optional
        A dict makes the function return a dict.
    mode : str or Mode, optional
        As for ``pytensor.function``. Left open, it is mode CUDA if ``theano.config.device`` is a GPU that there is.
    updates, givens, no_default_updates, accept_inplace, name, rebuild_strict, allow_input_downcast, profile, \
on_unused_input
        As for ``pytensor.function``.

    Returns
    -------
    callable
        PyTensor's compiled function, or one that fills in defaults and then calls it.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> x, rate = pt.dscalar("x"), pt.dscalar("rate")
    >>> scaled = function([x, In(rate, value=0.5)], {"scaled": x * rate}, mode="FAST_COMPILE")
    >>> float(scaled(4.0)["scaled"]), float(scaled(4.0, rate=2.0)["scaled"])
    (2.0, 8.0)
    """
    if profile == "None":
        profile = None
    keys = list(outputs) if isinstance(outputs, Mapping) else None
    settings = {
        "updates": updates,
        "givens": givens,
        "accept_inplace": accept_inplace,
        "name": name,
        "rebuild_strict": rebuild_strict,
        "allow_input_downcast": allow_input_downcast,
        "profile": profile,
        "on_unused_input": on_unused_input,
    }
    with warnings.catch_warnings():
        if no_default_updates is not False:
            settings["no_default_updates"] = no_default_updates
            warnings.filterwarnings("ignore", "The no_default_updates", DeprecationWarning)
        values = outputs if keys is None else [outputs[key] for key in keys]
        compiled = _compiled(list(inputs), values, mode, settings)
    if keys is None and not any(getattr(entry, "default", None) is not None for entry in inputs):
        return compiled
    return FilledFunction(compiled, inputs, keys)


def _compiled(inputs: list, outputs: Any, mode: Any, settings: dict[str, Any]) -> Any:
    """The function on the GPU if the program wants it there; on the CPU if the GPU cannot compute some of it."""
    on_gpu = open_mode(mode, config.device)
    if on_gpu is not None:
        try:
            return OnHost(pytensor.function(inputs, outputs, mode=on_gpu, **settings))
        except NotImplementedError as error:
            reason = str(error).partition(". ")[0]
            note_once(f"function on the CPU: {reason}", f"{reason}: the function that needs it runs on the CPU.")
    return pytensor.function(inputs, outputs, mode=mode, **settings)


class FilledFunction:
    """A compiled function whose missing inputs have defaults, and whose outputs may have names.

    Parameters
    ----------
    compiled : pytensor.compile.executor.Function
    inputs : sequence of variables or In
        Those of ``compiled``, in its order.
    keys : list of str, optional
        Names of the outputs.

    Notes
    -----
    Any other attribute is that of ``compiled``.
    """

    def __init__(self, compiled: Any, inputs: Sequence[Any], keys: list[str] | None):
        self.compiled = compiled
        self._names = [entry.name for entry in inputs]
        self._defaults = [getattr(entry, "default", None) for entry in inputs]
        self._keys = keys

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        values = list(args)
        for name, default in zip(self._names[len(args) :], self._defaults[len(args) :]):
            if name is not None and name in kwargs:
                values.append(kwargs.pop(name))
            elif default is not None:
                values.append(default)
            else:
                raise TypeError(f"missing input: {name or 'one without a name'} of {self.compiled}")
        results = self.compiled(*values, **kwargs)
        return results if self._keys is None else dict(zip(self._keys, results))

    def __getattr__(self, name: str) -> Any:
        if name == "compiled" or name.startswith("__"):  # not there yet while unpickling; ways to copy are our own
            raise AttributeError(name)
        return getattr(self.compiled, name)
