# What the recorder does in C: nothing here calls Python code, so nothing else runs in between.
cdef extern from *:
    """
    #include <string.h>
    #include <structmember.h>

    /* The value of a Python integer of one digit, as block numbers are; -1 for any other. */
    static inline long long kv_small(PyObject *number) {
    #if PY_VERSION_HEX >= 0x030C0000
        PyLongObject *digits = (PyLongObject *)number;
        return PyUnstable_Long_IsCompact(digits) ? (long long)PyUnstable_Long_CompactValue(digits) : -1;
    #else
        return Py_SIZE(number) == 1 ? (long long)((PyLongObject *)number)->ob_digit[0] : -1;
    #endif
    }

    static int kv_large(PyObject *number, long long *value) {
        int overflow;
        *value = PyLong_AsLongLongAndOverflow(number, &overflow);
        if (overflow > 0) {
            *value = (long long)PyLong_AsUnsignedLongLong(number);
            if (*value == -1 && PyErr_Occurred()) { /* more than 64 bits */
                PyErr_Clear();
                return 0;
            }
        }
        return overflow >= 0;
    }

    /* The number of an int, or of a block of the type at an address, whose block_id is at a known place. */
    static inline int kv_block_number(PyObject *block, Py_ssize_t type, Py_ssize_t slot, long long *value) {
        if (!PyLong_CheckExact(block)) {
            if (!slot || (Py_ssize_t)Py_TYPE(block) != type)
                return 0;
            block = *(PyObject **)((char *)block + slot);
            if (!block || !PyLong_CheckExact(block))
                return 0;
        }
        *value = kv_small(block);
        return *value >= 0 || kv_large(block, value);
    }

    /* Has the number of a block loaded while something else is done. */
    static inline void kv_load_ahead(PyObject *block, Py_ssize_t type, Py_ssize_t slot) {
    #if defined(__GNUC__) || defined(__clang__)
        if (slot && (Py_ssize_t)Py_TYPE(block) == type)
            __builtin_prefetch(*(char **)((char *)block + slot) + sizeof(PyObject));
    #else
        (void)block, (void)type, (void)slot;
    #endif
    }

    /* Where a member descriptor of __slots__ has its object; 0 for any other kind of member. */
    static Py_ssize_t kv_slot_of(PyObject *member) {
        PyMemberDef *definition = ((PyMemberDescrObject *)member)->d_member;
        return definition->type == T_OBJECT_EX ? definition->offset : 0;
    }

    /* Opens a contiguous row of native 64-bit integers, signed or not; 0 if it is none. */
    static int kv_open_row(PyObject *blocks, Py_buffer *row) {
        if (!PyObject_CheckBuffer(blocks))
            return 0;
        if (PyObject_GetBuffer(blocks, row, PyBUF_ND | PyBUF_FORMAT)) {
            PyErr_Clear();
            return 0;
        }
        if (row->ndim == 1 && row->itemsize == 8 && row->format && strlen(row->format) == 1 &&
            strchr("lLqQ", *row->format))
            return 1;
        PyBuffer_Release(row);
        return 0;
    }

    /* The method of a class as one of its subclass's own. */
    static inline PyObject *kv_own_method(PyObject *subclass, PyObject *method) {
        return PyDescr_NewMethod((PyTypeObject *)subclass, ((PyMethodDescrObject *)method)->d_method);
    }

    /* The clock of time.monotonic_ns. */
    static inline long long kv_monotonic_ns(void) {
    #if PY_VERSION_HEX >= 0x030D0000
        PyTime_t now;
        (void)PyTime_MonotonicRaw(&now);
        return now;
    #else
        return _PyTime_GetMonotonicClock();
    #endif
    }
    """
    bint block_number "kv_block_number"(object block, Py_ssize_t type, Py_ssize_t slot, long long *value) noexcept
    void load_ahead "kv_load_ahead"(object block, Py_ssize_t type, Py_ssize_t slot) noexcept
    Py_ssize_t slot_of "kv_slot_of"(object member) noexcept
    bint open_row "kv_open_row"(object blocks, Py_buffer *row) noexcept
    long long monotonic_ns "kv_monotonic_ns"() noexcept
    object own_method "kv_own_method"(object subclass, object method)
