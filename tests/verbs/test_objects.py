"""What can be said of verbs objects without a broker: their printing, and the two names of the numbers."""

import emu.verbs.enums as e
from emu.verbs import libibverbs_enums
from emu.verbs.base import PyverbsCM
from emu.verbs.device import AsyncEvent, Device, DeviceAttr, PortAttr
from emu.verbs.wr import SGE, RecvWR, SendWR


def test_both_names_of_the_numbers_are_the_same():
    assert libibverbs_enums.IBV_WC_REM_ACCESS_ERR is e.IBV_WC_REM_ACCESS_ERR


def test_requests_print_their_fields():
    assert "0x10" in str(SGE(16, 8, 3))
    assert "IBV_SEND_FENCE" in str(SendWR(1, num_sge=1, sg=[SGE(0, 8, 0)], send_flags=e.IBV_SEND_FENCE))
    assert str(RecvWR(7, 1, [SGE(0, 8, 0)])).startswith("WR ID")


def test_devices_and_events_print_their_names():
    assert "emu0" in str(Device(b"emu0"))
    assert "IBV_EVENT_DEVICE_FATAL" in str(AsyncEvent(e.IBV_EVENT_DEVICE_FATAL))
    assert "max_qp" in str(DeviceAttr({"max_qp": 4}))
    assert "IBV_PORT_ACTIVE" in str(PortAttr())


class PyverbsThing(PyverbsCM):
    pass


def test_an_event_is_acknowledged_once():
    sge = PyverbsThing()  # any element will do
    event, other = AsyncEvent(e.IBV_EVENT_QP_FATAL, sge), AsyncEvent(e.IBV_EVENT_QP_FATAL, sge)
    assert sge.unacknowledged == 2
    event.ack()
    event.ack()
    assert sge.unacknowledged == 1
    other.ack()
    assert sge.unacknowledged == 0


def test_an_sge_reads_the_memory_it_names():
    import ctypes

    memory = ctypes.create_string_buffer(b"0123456789", 10)
    assert SGE(ctypes.addressof(memory), 10, 0).read(3, 4) == b"456"
