"""``python -m pytensor_convnet`` is ``pytensor-convnet``."""

from pytensor_convnet.cli import main

if __name__ == "__main__":
    main()
