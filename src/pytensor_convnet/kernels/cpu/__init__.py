"""CPU kernels: Numba and LLVM vector instructions, no compiled extension. Importing this compiles nothing."""
