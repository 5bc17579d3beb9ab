"""Mode CUDA: whole functions that live on the GPU.

>>> import pytensor_convnet  # makes the mode known
>>> step = pytensor.function([index], loss, updates=updates, mode="CUDA")  # doctest: +SKIP

    mode         the mode and its settings
    linker       from PyTensor's graph to an execution
    hosting      what of a graph is known on the host, and what captured graphs depend on
    program      a graph as a program over torch tensors, by the functions of `lowering.cuda`
    capture      a program compiled and captured in one CUDA graph
    execution    a function at run time
    residents    shared variables on the device, coherent with functions of other modes
    arrays       what functions return
    devices      which device, and what to tell who has none

torch is imported when a function is compiled, not before.
"""

from pytensor_convnet.cuda.arrays import DeviceArray, DeviceError
from pytensor_convnet.cuda.devices import DeviceUnavailable
from pytensor_convnet.cuda.mode import cuda_mode

__all__ = ["DeviceArray", "DeviceError", "DeviceUnavailable", "cuda_mode"]
