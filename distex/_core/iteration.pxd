# How an awaitable hands over its value: StopIteration(value) out of tp_iternext. Raised by Cython
# it gets a traceback, which costs more than all the rest of awaiting a result that is there; so
# types on the hot path get an iternext written for the purpose, and their __next__ is for callers
# in Python.
from cpython.object cimport PyObject

cdef extern from *:
    """
    static PyObject *distex_stop_iteration(PyObject *value) {
        if (value == Py_None) return NULL;  /* the slot's way to say StopIteration() */
        if (PyTuple_Check(value) || PyExceptionInstance_Check(value)) {
            PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);
            if (stop != NULL) {
                PyErr_SetObject(PyExc_StopIteration, stop);
                Py_DECREF(stop);
            }
        } else {
            PyErr_SetObject(PyExc_StopIteration, value);
        }
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
    PyObject* stop_iteration "distex_stop_iteration" (PyObject* value) noexcept
    void set_iternext "distex_set_iternext" (object type, iternext next)
    iternext get_iternext "distex_get_iternext" (object type)
