# What C has and Python has not, for the compiled core alone.

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_RawCalloc, PyMem_RawFree
from libc.string cimport memcpy

# What native.py has, too. Constants for the C compiler: a variable of the module would be read anew at each use.
cdef enum:
    BIRTH = 0
    COUNT = 1
    TIMES = 2
    LINE = 8
    AHEAD = 32

cdef enum:
    NOT_LIVE = -1
    EMPTY = -1
    REMOVED = -2

cdef enum:  # Op
    ALLOC = 0
    ACCESS = 1
    EVICT = 2
    CLEAR = 3
    STORE = 4
    PREFIX = 5
    REMOVE = 6
    RESIDENT = 7

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


cdef inline object view(object column):
    """Return a column, of which a typed view is made where it is kept."""
    return column


cdef inline void copy_all(list columns, object into) except *:
    """Copy columns, one after another, into one of as many bytes."""
    cdef Py_ssize_t count = len(columns)
    cdef Py_ssize_t held = 0
    cdef Py_ssize_t i
    cdef Py_ssize_t room
    cdef char *to
    cdef Py_buffer whole
    cdef Py_buffer *parts = <Py_buffer *>PyMem_Calloc(count, sizeof(Py_buffer))
    if parts == NULL:
        raise MemoryError
    try:
        while held < count:
            PyObject_GetBuffer(columns[held], &parts[held], PyBUF_SIMPLE)
            held += 1
        PyObject_GetBuffer(into, &whole, PyBUF_WRITABLE)
        room = whole.len
        for i in range(count):
            room -= parts[i].len
        if room == 0:
            to = <char *>whole.buf
            with nogil:
                for i in range(count):
                    memcpy(to, parts[i].buf, parts[i].len)
                    to += parts[i].len
        PyBuffer_Release(&whole)
        if room != 0:
            raise ValueError("columns do not fill the one that they are copied into")
    finally:
        for i in range(held):
            PyBuffer_Release(&parts[i])
        PyMem_Free(parts)


cdef inline long long *zeros(Py_ssize_t count) except NULL nogil:
    """Return memory for integers, all 0."""
    cdef long long *cells = <long long *>PyMem_RawCalloc(count, sizeof(long long))
    if cells == NULL:
        with gil:
            raise MemoryError
    return cells


cdef inline void give_back(long long *cells) noexcept nogil:
    """Give memory back; NULL is none."""
    PyMem_RawFree(cells)
