"""How each operation is computed. Kernels know arrays (NumPy's, later torch's); they do not know PyTensor."""
