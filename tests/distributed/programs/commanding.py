"""The command line under torchrun; in process 1, after epoch 2, FATE befalls: 'kill', 'interrupt' or 'nothing'."""

import os
import signal
import sys

from pytensor_convnet import cli, reports
from pytensor_convnet.joining import launched

SIGNALS = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT}


def main(fate, *arguments):
    tell = reports.TrainingDisplay.on_epoch

    def tell_and_meet_fate(display, report):
        tell(display, report)
        if report.epoch == 2 and launched().rank == 1 and fate in SIGNALS:
            os.kill(os.getpid(), SIGNALS[fate])

    reports.TrainingDisplay.on_epoch = tell_and_meet_fate
    sys.argv[1:] = arguments
    cli.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
