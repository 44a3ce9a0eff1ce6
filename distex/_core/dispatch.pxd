from libc.stdint cimport int64_t, uint32_t, uint64_t

from distex._core.codec cimport Codec
from distex._core.framing cimport FrameHandler, FrameWriter, Header
from distex._core.functions cimport Function, FunctionTable
from distex._core.inbox cimport Inbox
from distex._core.semaphore cimport Semaphore
from distex._core.task cimport Task


cdef int put_function(FrameWriter out, Function function) except -1
cdef Function complete(Function function)


cdef class Machine:
    cdef readonly bint is_local
    # that the workers may use; 0: not known
    cdef public Py_ssize_t cpus
    # links that have something to do
    cdef Py_ssize_t busy
    # tiny tasks that one worker gets before the next gets any
    cdef double pack_ns

    cdef bint is_crowded(self)


cdef class WorkerLink(FrameHandler):
    cdef readonly Dispatcher dispatcher
    cdef FrameWriter out
    cdef readonly object worker
    cdef Machine machine
    # tasks on the worker, by slot; free slots
    cdef list slots
    cdef list free_slots
    cdef uint64_t sequence
    cdef readonly Py_ssize_t in_flight
    cdef double load_ns
    # calls that it may still be sent before another worker takes its place; negative: any number
    cdef int64_t budget
    # tasks that it was asked to cancel
    cdef uint64_t cancels
    # functions that the worker has: by id, the list of all links that have it
    cdef dict known
    cdef Function latest
    # whether it is among the idle; where it is among the busy
    cdef bint idle_listed
    cdef Py_ssize_t place
    # the dispatcher's when it got something to do, or answered last
    cdef uint32_t period
    cdef readonly bint lost
    cdef readonly bint retiring
    # told once it is retiring and has nothing left to do
    cdef object on_retired
    # calls that it has answered
    cdef readonly uint64_t tasks_done
    # the worker's lane, whether it was asked for or is not to be, and the call that has leased it
    cdef public object lane
    cdef bint lane_wanted
    cdef Task lane_task
    # asked to give back what it has not started, and looks since that; what it gave back in the
    # present batch
    cdef int recalled
    cdef list returned
    # ids of tasks that were taken back without it, which it has still to confirm; it seems to hang
    # in a call, so it gets no others
    cdef set withdrawn
    cdef bint hangs
    # calls that it had answered at the last look at it
    cdef int64_t done_then
    # it gets no other tasks than those that are tried apart from all others there, or are to be;
    # how many times it has been
    cdef bint apart
    cdef uint32_t trials

    cdef bint has_room(self, double cost_ns)
    cdef bint has_little(self) noexcept
    cdef bint takes(self, double cost_ns, WorkerLink idle)
    cdef int _begin(self) except -1
    cdef int _end(self) except -1
    cdef int _leave_busy(self) except -1
    cdef int _list_idle(self) except -1
    cdef int send(self, Task task) except -1
    cdef int _teach(self, Function function) except -1
    cdef int _send_function(self, Function function) except -1
    cdef uint64_t _next_id(self, Py_ssize_t slot) noexcept
    cdef int spend(self, uint32_t calls) except -1
    cdef int _cancel(self, uint64_t id, double grace) except -1
    cdef int _settle(self, Py_ssize_t slot, Task task, uint32_t done) except -1
    cdef Task _find(self, uint64_t id)
    cdef int _take_back(self, Header* header, const char* body) except -1
    cdef bint has_too_much(self)
    cdef int recall(self) except -1
    cdef bint relieve(self, bint others_idle)
    cdef int begin_trial(self, list group) except -1


cdef class Dispatcher:
    cdef readonly object loop
    cdef unsigned long thread
    cdef readonly Codec codec
    cdef readonly FunctionTable functions
    cdef readonly Inbox inbox
    cdef readonly Py_ssize_t qsize
    # the bound on the calls that are under way, or None
    cdef readonly Semaphore semaphore
    # calls that a worker is for; 0: any number
    cdef readonly Py_ssize_t max_calls
    cdef readonly list links
    # tasks that wait for room on a worker
    cdef readonly object queue
    # groups of tasks that may be to blame for the loss of a worker, each for a worker by itself;
    # the link that gets no others, so that it has nothing to do soon and can be given one of them
    cdef list suspects
    cdef WorkerLink reserved
    # links without work, most recently used last; may hold some that have found work since
    cdef list idle
    # links with work, in no order; where the last look at some of them ended
    cdef list busy
    cdef Py_ssize_t cursor
    # the link that tiny tasks are being packed onto, if need be until it has that much to do
    cdef WorkerLink packing
    cdef double packed_ns
    # no link had room at the last look, and none has answered since
    cdef bint full
    # told when nothing is queued nor on a worker
    cdef public object on_drained
    cdef readonly Py_ssize_t in_flight
    # a look is due at who has nothing to do and who too much
    cdef bint balancing
    # a look is due at which workers have not answered since the period began, or how many had not
    cdef bint watching
    cdef uint32_t period
    cdef Py_ssize_t lagging
    # what comes now is cancelled
    cdef bint cancelling
    # makes the exception that says why no task can be taken any more, or None
    cdef readonly object closed

    # the Deadlines that have a timer
    cdef set timed

    # tasks done by workers that are gone, and those that were sent again after a loss
    cdef readonly uint64_t tasks_done
    cdef readonly uint64_t tasks_retried

    # busy polling: for how many seconds, until when, and whether it goes on
    cdef readonly double spin
    cdef double spin_end
    cdef bint spinning

    cdef int look_soon(self) except -1
    cdef int keep_awake(self) except -1
    cdef double _cost(self, Task task)
    cdef WorkerLink lease(self, Task task)
    cdef int release(self, WorkerLink link) except -1
    cdef WorkerLink _next_idle(self, double cost_ns)
    cdef bint _wakes_another(self) except -1
    cdef WorkerLink choose(self, double cost_ns, WorkerLink hint)
    cdef int send_waiting(self, WorkerLink link, Task task, double* now) except -1
    cdef int try_suspects(self, WorkerLink spare) except -1
    cdef int add(self, Task task) except -1
    cdef bint starts(self, Task task, double* now) except -1
    cdef int set_deadline(self, Task task) except -1
    cdef int expire(self, Task task) except -1
    cpdef bint on_home_thread(self) except -1
    cpdef int submit(self, Task task) except -1
    cdef int pump(self, WorkerLink hint) except -1
