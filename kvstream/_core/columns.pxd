# The types of the columns, which the loop of the block table writes to.

cdef class Columns:
    cdef long long[::1] counts  # by place in COUNTED
    cdef long long[::1] evictions  # by reason
    # How much there is in each column.
    cdef Py_ssize_t gap_count
    cdef Py_ssize_t first_count
    cdef Py_ssize_t unobserved_count
    cdef Py_ssize_t used_count
    cdef Py_ssize_t looked_up_count
    cdef Py_ssize_t begun_count
    cdef Py_ssize_t late_count
    cdef Py_ssize_t ended_count
    cdef Py_ssize_t evicted_count
    cdef Py_ssize_t change_count
    cdef long long[::1] reuse_gap  # access to access, ns
    cdef unsigned short[::1] gap_of
    cdef long long[::1] first_reuse  # allocation to first access, ns
    cdef unsigned short[::1] first_of
    cdef unsigned short[::1] unobserved_of  # accesses with an interval that is unknown or not sampled
    cdef long long[::1] used  # content key or generation that was in use
    cdef long long[::1] looked_up  # content keys for the miss-ratio curve
    cdef long long[::1] begun_ts
    cdef unsigned short[::1] begun_of
    cdef unsigned short[::1] late_of  # those begun that have no known birth
    cdef long long[::1] ended_ts
    cdef unsigned short[::1] ended_of
    # Of each generation that was evicted and that sampling observes.
    cdef long long[::1] lifetime  # -1 where the birth is unknown
    cdef long long[::1] idle  # -1 where no use of it is known
    cdef long long[::1] access_count
    cdef unsigned short[::1] evicted_of
    cdef long long[::1] evicted_block
    cdef long long[::1] evicted_ts
    cdef unsigned char[::1] evicted_reason
    cdef long long[:, ::1] history  # last access times, oldest first, right-aligned
    # Content keys that came into the cache or left it.
    cdef long long[::1] change_key
    cdef long long[::1] change_ts
    cdef unsigned char[::1] change_begins
    cdef unsigned short[::1] change_of
    cdef dict arrays

    cdef void count_by_label_set(self, long long[:, ::1] counts) noexcept nogil
    cdef void count_shown(self) noexcept nogil
