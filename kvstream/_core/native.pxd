# What C has and Python has not, for the compiled core alone.

cdef extern from * nogil:
    """
    #if defined(__GNUC__) || defined(__clang__)
    /* The empty statement keeps gcc from taking a function that only prefetches for one without effect. */
    #define kvstream_prefetch(address) ({ __builtin_prefetch((address), 1, 3); __asm__ volatile(""); })
    #define kvstream_bit_length(value) (64 - __builtin_clzll((unsigned long long)(value)))
    #else
    #define kvstream_prefetch(address) ((void)(address))
    static int kvstream_bit_length(unsigned long long value) {
        int bits = 0;
        for (; value; value >>= 1) bits++;
        return bits;
    }
    #endif
    """
    void prefetch "kvstream_prefetch" (const void *address) noexcept
    int bit_length "kvstream_bit_length" (unsigned long long value) noexcept  # of at least 1


cdef inline long long as_signed(unsigned long long bits) noexcept nogil:
    """Return the signed integer of the same 64 bits."""
    return <long long>bits
