/* StepRecorder of kvstream/recorder.py in C: the same methods, the same results, a third of the cost.
 *
 * An engine calls it for every block that it touches, one at a time, and that is where Python is slowest.
 * Events are written straight into the columns of a frame. Each method holds the interpreter's lock from
 * beginning to end except where it calls Python, so that any thread may call; nothing is half done when it
 * calls Python, as that may call back.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

#define FIRST_ROOM 4096

enum op { ALLOC = 0, ACCESS = 1, EVICT = 2 }; /* as kvstream.events.types.Op */

typedef struct {
    PyObject_HEAD
    PyObject *ticks, *on_step, *on_full;    /* callables */
    long long offset;                       /* of the clock from its ticks, ns */
    PyObject *reason_code;                  /* dict of str to int */
    PyObject *checked_time;                 /* callable: the time given, or MalformedInputError */
    PyObject *block_id;                     /* the attribute's name */
    Py_ssize_t frame_events;
    int unknown_reason;
    int64_t *blocks, *ts;
    uint8_t *ops, *reasons;
    Py_ssize_t n, room;
    Py_ssize_t timed;                       /* how many events have got their time */
    Py_ssize_t malformed;
    long long began_ns;
    bool with_reasons;                      /* whether any was given but the usual one */
    bool told;                              /* whether on_step has been called since all was taken */
    bool closed;                            /* whether nobody empties it but on_full */
    PyTypeObject *block_type;               /* that the last block was of */
    Py_ssize_t slot;                        /* where in a block its block_id is; 0 if that is not known */
} Recorder;

static bool
make_room(Recorder *self, Py_ssize_t more)
{
    if (more <= self->room - self->n)
        return true;
    if (self->closed && self->n) { /* it must not grow for ever; this takes everything out */
        PyObject *done = PyObject_CallNoArgs(self->on_full);
        if (!done)
            return false;
        Py_DECREF(done);
        if (more <= self->room - self->n)
            return true;
    }
    size_t room = self->room ? (size_t)self->room : FIRST_ROOM;
    while (room < (size_t)(self->n + more))
        room *= 2;
    int64_t *blocks = PyMem_Realloc(self->blocks, room * sizeof *blocks);
    if (blocks)
        self->blocks = blocks;
    int64_t *ts = PyMem_Realloc(self->ts, room * sizeof *ts);
    if (ts)
        self->ts = ts;
    uint8_t *ops = PyMem_Realloc(self->ops, room);
    if (ops)
        self->ops = ops;
    uint8_t *reasons = PyMem_Realloc(self->reasons, room);
    if (reasons)
        self->reasons = reasons;
    if (!blocks || !ts || !ops || !reasons) {
        PyErr_NoMemory();
        return false;
    }
    self->room = (Py_ssize_t)room;
    return true;
}

/* Unsigned hashes are the same 64 bits. The highest 32 are reserved, as the plain recorder marks with them. */
static inline bool
is_id(int64_t number)
{
    return (uint64_t)number < (uint64_t)-32;
}

/* Whether a Python integer is of one digit, with its value: what block numbers are, told without a call. */
static inline bool
is_small(PyObject *number, int64_t *value)
{
    PyLongObject *digits = (PyLongObject *)number;
#if PY_VERSION_HEX >= 0x030C0000
    *value = PyUnstable_Long_IsCompact(digits) ? PyUnstable_Long_CompactValue(digits) : -1;
#else
    *value = Py_SIZE(digits) == 1 ? (int64_t)digits->ob_digit[0] : -1;
#endif
    return *value >= 0;
}

/* The 64-bit number of a Python integer; false if it has none, without an exception. */
static inline bool
number_of_int(PyObject *number, int64_t *id)
{
    int overflow;
    if (is_small(number, id))
        return true;
    *id = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (overflow) {
        if (overflow < 0)
            return false;
        *id = (int64_t)PyLong_AsUnsignedLongLong(number);
        if (PyErr_Occurred()) {
            PyErr_Clear();
            return false;
        }
    }
    return is_id(*id);
}

/* Looks up where blocks of this type keep block_id: a slot is read in a tenth of the time of an attribute. */
static void
find_slot(Recorder *self, PyTypeObject *type)
{
    Py_ssize_t slot = 0;
    PyObject *member = PyObject_GetAttr((PyObject *)type, self->block_id);
    if (member && Py_IS_TYPE(member, &PyMemberDescr_Type) && PyType_IsSubtype(type, PyDescr_TYPE(member))) {
        PyMemberDef *definition = ((PyMemberDescrObject *)member)->d_member;
        slot = definition->type == T_OBJECT_EX ? definition->offset : 0;
    }
    PyErr_Clear();
    Py_XDECREF(member);
    PyTypeObject *before = self->block_type;
    Py_INCREF(type);
    self->block_type = type;
    self->slot = slot;
    Py_XDECREF(before);
}

/* The number of what is no plain int: it can be an index, or has a block_id; false without an exception. */
static bool
number_of_object(Recorder *self, PyObject *block, int64_t *id)
{
    PyObject *number = block;
    Py_INCREF(block);
    if (!PyIndex_Check(block)) {
        if (!Py_IS_TYPE(block, self->block_type))
            find_slot(self, Py_TYPE(block));
        Py_SETREF(number, PyObject_GetAttr(block, self->block_id));
    }
    if (number && !PyLong_CheckExact(number))
        Py_SETREF(number, PyNumber_Index(number));
    bool found = number && number_of_int(number, id);
    PyErr_Clear();
    Py_XDECREF(number);
    return found;
}

/* The number of a block without asking Python, which is what nearly all calls come to. */
static inline bool
number_of(Recorder *self, PyObject *block, int64_t *id)
{
    if (PyLong_CheckExact(block))
        return number_of_int(block, id);
    if (self->slot && Py_IS_TYPE(block, self->block_type)) {
        PyObject *number = *(PyObject **)((char *)block + self->slot);
        if (number && PyLong_CheckExact(number))
            return number_of_int(number, id);
    }
    return number_of_object(self, block, id);
}

/* Records one event; what has no number is counted. False with an exception only if there is no memory. */
static inline bool
put(Recorder *self, PyObject *block, uint8_t op, uint8_t reason)
{
    int64_t id;
    if (!number_of(self, block, &id)) {
        self->malformed++;
        return true;
    }
    if (self->n == self->room && !make_room(self, 1))
        return false;
    self->blocks[self->n] = id;
    self->ops[self->n] = op;
    self->reasons[self->n++] = reason;
    return true;
}

/* Records a row of native 64-bit integers, signed or not; 0 if it is none, -1 with an exception. */
static int
put_row(Recorder *self, PyObject *blocks, uint8_t op, uint8_t reason)
{
    Py_buffer row;
    if (PyObject_GetBuffer(blocks, &row, PyBUF_ND | PyBUF_FORMAT)) {
        PyErr_Clear();
        return 0;
    }
    int done = row.ndim == 1 && row.itemsize == 8 && row.format && strlen(row.format) == 1 &&
               strchr("lLqQ", *row.format);
    if (done && !make_room(self, row.shape[0]))
        done = -1;
    for (Py_ssize_t i = 0; done == 1 && i < row.shape[0]; i++) {
        int64_t id;
        memcpy(&id, (char *)row.buf + i * row.itemsize, sizeof id);
        self->blocks[self->n] = id;
        self->ops[self->n] = op;
        self->reasons[self->n] = reason;
        self->n += is_id(id);
        self->malformed += !is_id(id);
    }
    PyBuffer_Release(&row);
    return done;
}

static PyObject *
put_all(Recorder *self, PyObject *blocks, uint8_t op, uint8_t reason)
{
    int done = PyObject_CheckBuffer(blocks) ? put_row(self, blocks, op, reason) : 0;
    if (done < 0)
        return NULL;
    if (done)
        Py_RETURN_NONE;
    PyObject *items = PySequence_Fast(blocks, "blocks must be a list, a tuple or an array");
    if (!items)
        return NULL;
    bool room = true;
    for (Py_ssize_t i = 0; room && i < PySequence_Fast_GET_SIZE(items); i++) {
        PyObject *block = PySequence_Fast_GET_ITEM(items, i);
        Py_INCREF(block); /* asking it for its number may take it out of the list */
        room = put(self, block, op, reason);
        Py_DECREF(block);
    }
    Py_DECREF(items);
    if (!room)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
put_one(Recorder *self, PyObject *block, uint8_t op, uint8_t reason)
{
    if (!put(self, block, op, reason))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
accessed(Recorder *self, PyObject *block)
{
    return put_one(self, block, ACCESS, 0);
}

static PyObject *
accessed_all(Recorder *self, PyObject *blocks)
{
    return put_all(self, blocks, ACCESS, 0);
}

static PyObject *
allocated(Recorder *self, PyObject *block)
{
    return put_one(self, block, ALLOC, 0);
}

static PyObject *
allocated_all(Recorder *self, PyObject *blocks)
{
    return put_all(self, blocks, ALLOC, 0);
}

/* An argument after the first `given`, by place or name; NULL if it is missing or None. Says if the call is right. */
static bool
optional_argument(PyObject *const *args, Py_ssize_t n, PyObject *names, Py_ssize_t given, const char *name,
                  PyObject **found)
{
    Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    if (n < given || n + named > given + 1 ||
        (named && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), name))) {
        PyErr_Format(PyExc_TypeError, "takes %zd argument(s) and, if need be, %s", given, name);
        return false;
    }
    *found = n + named > given && args[given] != Py_None ? args[given] : NULL;
    return true;
}

/* The code of the reason after the first argument; -1 with an exception. */
static int
reason_of(Recorder *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    PyObject *reason, *code = NULL;
    if (!optional_argument(args, n, names, 1, "reason", &reason))
        return -1;
    if (!reason)
        return 0;
    code = PyDict_GetItemWithError(self->reason_code, reason);
    if (!code && PyErr_Occurred())
        return -1;
    int number = code ? (int)PyLong_AsLong(code) : self->unknown_reason;
    self->with_reasons |= number > 0;
    return number;
}

static PyObject *
evicted(Recorder *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    int reason = reason_of(self, args, n, names);
    return reason < 0 ? NULL : put_one(self, args[0], EVICT, (uint8_t)reason);
}

static PyObject *
evicted_all(Recorder *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    int reason = reason_of(self, args, n, names);
    return reason < 0 ? NULL : put_all(self, args[0], EVICT, (uint8_t)reason);
}

/* Reads nanoseconds that a call has returned; false with an exception. */
static bool
time_from(PyObject *returned, long long *ns)
{
    if (!returned)
        return false;
    *ns = PyLong_AsLongLong(returned);
    Py_DECREF(returned);
    return !(*ns == -1 && PyErr_Occurred());
}

static bool
read_clock(Recorder *self, long long *ns)
{
    if (!time_from(PyObject_CallNoArgs(self->ticks), ns))
        return false;
    *ns += self->offset;
    return true;
}

/* Gives the events since the last step their time. */
static void
stamp(Recorder *self, int64_t now)
{
    int64_t *ts = self->ts;
    Py_ssize_t n = self->n;
    for (Py_ssize_t i = self->timed; i < n; i++)
        ts[i] = now < 0 ? 0 : now;
    self->timed = n;
}

static PyObject *
begin_step(Recorder *self, PyObject *Py_UNUSED(none))
{
    if (!read_clock(self, &self->began_ns))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
end_step(Recorder *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    PyObject *ts;
    long long now = self->began_ns;
    if (!optional_argument(args, n, names, 0, "ts", &ts))
        return NULL;
    if (ts ? !time_from(PyObject_CallOneArg(self->checked_time, ts), &now) : !now && !read_clock(self, &now))
        return NULL;
    stamp(self, now);
    self->began_ns = 0;
    PyObject *whom = self->n >= self->frame_events ? self->on_full : self->told ? NULL : self->on_step;
    if (!whom)
        Py_RETURN_NONE;
    self->told = true;
    return PyObject_CallNoArgs(whom);
}

static PyObject *
column(const void *values, Py_ssize_t n, size_t size)
{
    return PyBytes_FromStringAndSize(values, n * (Py_ssize_t)size);
}

static PyObject *
take(Recorder *self, PyObject *Py_UNUSED(none))
{
    long long now = self->began_ns;
    if (!now && !read_clock(self, &now))
        return NULL;
    stamp(self, now);
    PyObject *ops = column(self->ops, self->n, sizeof *self->ops);
    PyObject *blocks = column(self->blocks, self->n, sizeof *self->blocks);
    PyObject *ts = column(self->ts, self->n, sizeof *self->ts);
    PyObject *reasons = column(self->reasons, self->with_reasons ? self->n : 0, sizeof *self->reasons);
    if (!ops || !blocks || !ts || !reasons) {
        Py_XDECREF(ops);
        Py_XDECREF(blocks);
        Py_XDECREF(ts);
        Py_XDECREF(reasons);
        return NULL;
    }
    Py_ssize_t malformed = self->malformed;
    self->n = self->timed = self->malformed = 0; /* before a tuple is made, which may let Python collect garbage */
    self->with_reasons = self->told = false;
    return Py_BuildValue("NNNNn", ops, blocks, ts, reasons, malformed);
}

static PyObject *
close_recorder(Recorder *self, PyObject *Py_UNUSED(none))
{
    self->closed = true;
    Py_RETURN_NONE;
}

static int
holds_anything(Recorder *self)
{
    return self->n > 0 || self->malformed > 0;
}

static int
traverse(Recorder *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->ticks);
    Py_VISIT(self->on_step);
    Py_VISIT(self->on_full);
    Py_VISIT(self->reason_code);
    Py_VISIT(self->checked_time);
    Py_VISIT(self->block_type);
    return 0;
}

static int
clear(Recorder *self)
{
    Py_CLEAR(self->ticks);
    Py_CLEAR(self->on_step);
    Py_CLEAR(self->on_full);
    Py_CLEAR(self->reason_code);
    Py_CLEAR(self->checked_time);
    Py_CLEAR(self->block_type);
    return 0;
}

static void
dealloc(Recorder *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    Py_XDECREF(self->block_id);
    PyMem_Free(self->blocks);
    PyMem_Free(self->ts);
    PyMem_Free(self->ops);
    PyMem_Free(self->reasons);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
new(PyTypeObject *type, PyObject *args, PyObject *names)
{
    static char *keywords[] = {"ticks",       "offset",         "frame_events", "on_step",      "on_full",
                               "reason_code", "unknown_reason", "checked_time", NULL};
    PyObject *ticks, *on_step, *on_full, *reason_code, *checked_time;
    long long offset;
    Py_ssize_t frame_events;
    int unknown_reason;
    if (!PyArg_ParseTupleAndKeywords(args, names, "OLnOOO!iO", keywords, &ticks, &offset, &frame_events, &on_step,
                                     &on_full, &PyDict_Type, &reason_code, &unknown_reason, &checked_time))
        return NULL;
    Recorder *self = (Recorder *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->ticks = Py_NewRef(ticks);
    self->on_step = Py_NewRef(on_step);
    self->on_full = Py_NewRef(on_full);
    self->reason_code = Py_NewRef(reason_code);
    self->checked_time = Py_NewRef(checked_time);
    self->offset = offset;
    self->frame_events = frame_events;
    self->unknown_reason = unknown_reason;
    self->block_id = PyUnicode_InternFromString("block_id");
    if (!self->block_id || !make_room(self, FIRST_ROOM)) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

#define WITH_OPTION METH_FASTCALL | METH_KEYWORDS

static PyMethodDef methods[] = {
    {"accessed", (PyCFunction)accessed, METH_O, "A live block was found by a request."},
    {"accessed_all", (PyCFunction)accessed_all, METH_O, "Several live blocks were found by a request."},
    {"allocated", (PyCFunction)allocated, METH_O, "A block was handed out."},
    {"allocated_all", (PyCFunction)allocated_all, METH_O, "Several blocks were handed out."},
    {"evicted", (PyCFunction)(void (*)(void))evicted, WITH_OPTION, "A block was given up."},
    {"evicted_all", (PyCFunction)(void (*)(void))evicted_all, WITH_OPTION, "Several blocks were given up."},
    {"begin_step", (PyCFunction)begin_step, METH_NOARGS, "Notes that the events of a step come now."},
    {"end_step", (PyCFunction)(void (*)(void))end_step, WITH_OPTION,
     "Gives everything since the last step its time."},
    {"close", (PyCFunction)close_recorder, METH_NOARGS,
     "Calls on_full also between steps from now on, as nobody else empties the recorder any more."},
    {"take", (PyCFunction)take, METH_NOARGS, "Takes out everything recorded, in columns."},
    {NULL},
};

static PyMemberDef members[] = {
    {"began_ns", T_LONGLONG, offsetof(Recorder, began_ns), 0, "When the step began; 0 if that was not told."},
    {NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The StepRecorder of kvstream.recorder, compiled."},
    {Py_tp_new, new},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_nb_bool, holds_anything},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "kvstream.recorder_compiled.StepRecorder",
    .basicsize = sizeof(Recorder),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

static int
add_type(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&spec);
    int failed = type ? PyModule_AddObjectRef(module, "StepRecorder", type) : -1;
    Py_XDECREF(type);
    return failed;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, add_type}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "kvstream.recorder_compiled",
    .m_doc = "A recorder for engines that call once a block.",
    .m_slots = module_slots,
};

PyMODINIT_FUNC
PyInit_recorder_compiled(void)
{
    return PyModuleDef_Init(&module);
}
