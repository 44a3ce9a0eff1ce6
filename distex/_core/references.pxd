# References to objects as plain pointers, borrowed or handed on, for loops over many values. Cython
# counts each object that passes through its hands, up and at once down again, which takes longer
# than all else that is done to a number (on 3.12: the count is written as 32 bits and read back as
# 64, which the CPU has to wait for; 22 ns for each result of a map, 15 without).
from cpython.object cimport PyObject

cdef extern from *:
    """
    static inline PyObject *distex_owned(PyObject *value) { return value; }
    static inline PyObject *distex_list_move(PyObject *values, Py_ssize_t i) {
        PyObject *value = PyList_GET_ITEM(values, i);
        PyList_SET_ITEM(values, i, Py_NewRef(Py_None));
        return value;
    }
    """
    # a reference that is ours, for Cython to count from now on
    object owned "distex_owned" (PyObject* value)
    # the item, which the list lets go of; a borrowed one
    PyObject* list_move "distex_list_move" (PyObject* values, Py_ssize_t i) noexcept
    PyObject* list_item "PyList_GET_ITEM" (list values, Py_ssize_t i) noexcept
    # fill a list that is fresh from PyList_New(); end it before its last item, if that is not there
    void list_set "PyList_SET_ITEM" (list values, Py_ssize_t i, PyObject* value) noexcept
    void list_end "Py_SET_SIZE" (list values, Py_ssize_t size) noexcept
