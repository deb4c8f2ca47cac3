"""The compiled core: each rule of what happens to a block, once, as a loop over plain arrays.

The modules here are Python that Cython compiles where there is a C compiler. Where there is none the same
files are interpreted: right, and some ninety times slower (``kvstream._core.build``).
"""
