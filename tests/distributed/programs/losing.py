"""Process 1 stops taking part, by 'kill' or 'sleep'; the other tells what it finds, in one line."""

import os
import signal
import sys
import time

import numpy as np
import pytensor
import pytensor.tensor as pt

from pytensor_convnet.distributed import LostProcess, all_mean, joined


def main(fate):
    with joined() as processes:
        x = pt.fvector()
        function = pytensor.function([x], all_mean(x), mode="NUMBA")
        function(np.ones(3, "float32"))
        if processes.rank == 1:
            if fate == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(250)
        try:
            function(np.ones(3, "float32"))
        except LostProcess as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1])
