"""Our Ops for array libraries with compilers of their own, JAX, MLX and torch: what is alike in all.

    base        the few operations on arrays that pools and normalisation are made of
    pooling, normalisation
    library     what a backend must offer
    checks      whether arguments fit
    operations  from an Op to a function over a library's arrays

Imports none of these libraries.
"""
