# What other modules of the core call without the GIL, each through a pointer.

cdef long long span(long long later, long long earlier) noexcept nogil

cdef class Index:
    cdef long long[:] keys  # by slot
    cdef int[::1] places  # slot below its tag, or what else each place holds
    cdef long long slot_mask  # of the bits of a slot in its place
    cdef long long tag_mask  # of those above
    cdef unsigned long long factor
    cdef int shift
    cdef long long mask
    cdef long long used  # places that are not empty
    cdef long long limit  # used at most
    cdef double load

    cdef long long _home(self, long long key) noexcept nogil
    cdef long long _tag(self, long long key) noexcept nogil
    cdef long long slot_at(self, long long place) noexcept nogil
    cdef long long likely_place(self, long long key) noexcept nogil
    cdef long long find(self, long long key) noexcept nogil
    cdef void put(self, long long place, long long slot) noexcept nogil
    cdef void remove(self, long long key) noexcept nogil
    cdef void load_ahead(self, long long key) noexcept nogil
