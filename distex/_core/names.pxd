cdef bint any_noted() noexcept
