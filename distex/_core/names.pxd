cdef bint any_noted() noexcept
cpdef set take_names()
cpdef set names_in(bytes pickled)
