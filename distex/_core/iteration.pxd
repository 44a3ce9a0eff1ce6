# How an awaitable hands over its value: StopIteration(value) out of tp_iternext. Raised by Cython
# it gets a traceback, which costs more than all the rest of awaiting a result that is there; so
# types on the hot path get an iternext written for the purpose, and their __next__ is for callers
# in Python.
#
# The interpreter takes the value out and drops the exception at once, so one is used again and
# again: 'async for' over results that are there costs 130 ns for each with a fresh one, 60 ns so.
from cpython.object cimport PyObject

cdef extern from *:
    """
    #if PY_VERSION_HEX >= 0x030C0000 && !defined(Py_GIL_DISABLED)
    static PyObject *distex_spare;  /* the exception to use next, without a value; or NULL */

    static void distex_stop_dealloc(PyObject *self) {
        PyStopIterationObject *stop = (PyStopIterationObject *)self;
        PyObject *value = stop->value;
        stop->value = NULL;
        /* one that somebody caught may carry more than a value: it goes the way of all */
        if (distex_spare == NULL && stop->traceback == NULL && stop->context == NULL
                && stop->cause == NULL && stop->notes == NULL && stop->dict == NULL) {
            PyObject_GC_UnTrack(self);
            distex_spare = self;
        } else {
            ((PyTypeObject *)PyExc_StopIteration)->tp_dealloc(self);
        }
        Py_XDECREF(value);
    }
    static PyTypeObject distex_stop_type = {
        PyVarObject_HEAD_INIT(NULL, 0)
        .tp_name = "StopIteration",
        .tp_basicsize = sizeof(PyStopIterationObject),
        .tp_flags = Py_TPFLAGS_DEFAULT,
        .tp_dealloc = distex_stop_dealloc,
    };
    static PyObject *distex_stop(void) {
        PyObject *stop = distex_spare;
        if (stop != NULL) {
            distex_spare = NULL;
            (void)PyObject_Init(stop, &distex_stop_type);
            PyObject_GC_Track(stop);
            return stop;
        }
        if (distex_stop_type.tp_base == NULL) {
            distex_stop_type.tp_base = (PyTypeObject *)PyExc_StopIteration;
            if (PyType_Ready(&distex_stop_type) < 0) return NULL;
        }
        return PyObject_CallNoArgs((PyObject *)&distex_stop_type);
    }
    static void distex_raise(PyObject *value) {
        PyObject *stop = distex_stop();
        if (stop != NULL) {
            ((PyStopIterationObject *)stop)->value = value;
            PyErr_SetRaisedException(stop);
        } else {
            Py_DECREF(value);
        }
    }
    #else  /* 3.11 makes no exception as long as nobody catches it */
    static void distex_raise(PyObject *value) {
        if (PyTuple_Check(value) || PyExceptionInstance_Check(value)) {
            PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);
            if (stop != NULL) {
                PyErr_SetObject(PyExc_StopIteration, stop);
                Py_DECREF(stop);
            }
        } else {
            PyErr_SetObject(PyExc_StopIteration, value);
        }
        Py_DECREF(value);
    }
    #endif
    static PyObject *distex_hand_over(PyObject *value) {
        if (value != Py_None) distex_raise(value);
        else Py_DECREF(value);  /* NULL alone means None */
        return NULL;
    }
    typedef PyObject *(*distex_iternext)(PyObject *);
    static distex_iternext distex_get_iternext(PyObject *type) {
        return ((PyTypeObject *)type)->tp_iternext;
    }
    static void distex_set_iternext(PyObject *type, distex_iternext next) {
        ((PyTypeObject *)type)->tp_iternext = next;
        PyType_Modified((PyTypeObject *)type);
    }
    """
    ctypedef PyObject* (*iternext "distex_iternext")(PyObject*) noexcept
    # steals the reference; to be returned from iternext
    PyObject* hand_over "distex_hand_over" (PyObject* value) noexcept
    void set_iternext "distex_set_iternext" (object type, iternext next)
    iternext get_iternext "distex_get_iternext" (object type)
