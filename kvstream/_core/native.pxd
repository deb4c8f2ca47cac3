# What C has and Python has not, for the compiled core alone.

from cpython.mem cimport PyMem_Calloc, PyMem_Free

cdef enum:  # of native.py: a variable of the module would be read anew at each use
    BIRTH = 0
    COUNT = 1
    TIMES = 2
    LINE = 8

cdef extern from * nogil:
    """
    #if defined(__GNUC__) || defined(__clang__)
    /* The empty statement keeps gcc from taking a function that only prefetches for one without effect. */
    #define kvstream_prefetch(address) ({ __builtin_prefetch((address), 1, 3); __asm__ volatile(""); })
    #else
    #define kvstream_prefetch(address) ((void)(address))
    #endif
    #include <string.h>
    /* As a double, a value is its power of two, and then its binary digits after the first. */
    static inline long long kvstream_leading_digits(long long value, int digits) {
        double as_double = (double)value;
        long long bits;
        memcpy(&bits, &as_double, sizeof bits);
        return (bits >> (52 - digits)) - (1023LL << digits);
    }
    """
    void prefetch "kvstream_prefetch" (const void *address) noexcept
    # See native.py; exact up to 2**53, and beyond at least as much as for that.
    long long leading_digits "kvstream_leading_digits" (long long value, int digits) noexcept


cdef inline long long as_signed(unsigned long long bits) noexcept nogil:
    """Return the signed integer of the same 64 bits."""
    return <long long>bits


cdef inline long long *zeros(Py_ssize_t count) except NULL:
    """Return memory for integers, all 0."""
    cdef long long *cells = <long long *>PyMem_Calloc(count, sizeof(long long))
    if cells == NULL:
        raise MemoryError
    return cells


cdef inline void give_back(long long *cells) noexcept:
    """Give memory back; NULL is none."""
    PyMem_Free(cells)
