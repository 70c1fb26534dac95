"""The Python faces over a live engine: each call does what it says, and refuses with an errno and a sentence."""

from __future__ import annotations


def test_a_write_moves_the_bytes_of_a_mapped_region(in_process):
    in_process("""
        with Engine() as engine:
            engine.start()
            a, b = pair(engine)
            src, _ = memory(engine, 0x100)
            dst, _ = memory(engine, 0x200)
            src.view[:] = os.urandom(SIZE)
            a.qp.post_send([WorkRequest(7, [Sge(src.addr, SIZE, 0x100)], opcode=WRITE, flags=SIGNALED,
                                        remote_addr=dst.addr, rkey=0x200)])
            wc = a.next()
            assert (wc.wr_id, wc.status, wc.opcode, wc.qp_num) == (7, 0, 1, a.num)
            assert src.view == dst.view
            stats = engine.stats()
            assert (stats["ops"], stats["bytes"], stats["mrs"], stats["qps"]) == (1, SIZE, 2, 2)
    """)


def test_a_send_gathers_and_scatters_pieces(in_process):
    in_process("""
        with Engine(threads=2) as engine:
            engine.start()
            a, b = pair(engine)
            src, _ = memory(engine, 0x100)
            dst, _ = memory(engine, 0x200)
            src.view[0:3], src.view[100:104] = b"abc", b"defg"
            b.qp.post_recv([WorkRequest(1, [Sge(dst.addr, 2, 0x200), Sge(dst.addr + 10, 100, 0x200)])])
            a.qp.post_one(WorkRequest(2, [Sge(src.addr, 3, 0x100), Sge(src.addr + 100, 4, 0x100)], opcode=3, flags=SIGNALED,
                                      imm_data=99))
            assert a.next().status == 0
            wc = b.next()
            assert (wc.wr_id, wc.byte_len, wc.imm_data, wc.opcode, wc.is_recv) == (1, 7, 99, 128, 1)
            assert bytes(dst.view[:2]) + bytes(dst.view[10:15]) == b"abcdefg"
    """)


def test_revocation_is_two_steps_and_an_error_at_the_peer(in_process):
    in_process("""
        with Engine() as engine:
            engine.start()
            a, b = pair(engine)
            src, _ = memory(engine, 0x100)
            dst, aperture = memory(engine, 0x200)
            write = WorkRequest(1, [Sge(src.addr, 64, 0x100)], opcode=WRITE, flags=SIGNALED, remote_addr=dst.addr, rkey=0x200)
            for refused, call in ((16, lambda: engine.unmap([0x200], 1)), (16, lambda: engine.mr_remove(0x200)),
                                  (16, lambda: engine.aperture_drop(aperture)), (2, lambda: engine.mr_remove(0x999))):
                try:
                    call()
                except OSError as error:
                    assert error.errno == refused, error
                    assert str(refused) in str(error) and len(error.strerror) > 10
                else:
                    raise AssertionError("was not refused")
            engine.quiesce([0x200], 5)
            assert event(engine, EventKind.QUIESCED).cookie == 5
            assert engine.mr_state(0x200) is MrState.FENCED
            a.qp.post_one(write)
            assert a.next().status == 10
            assert event(engine, EventKind.ASYNC)[1:3] == (b.num, 3)
            assert engine.mr_inflight([0x100, 0x200]) == 0
            engine.unmap([0x200], 6)
            assert event(engine, EventKind.UNMAPPED).cookie == 6
            engine.mr_remove(0x200)
            engine.aperture_drop(aperture)
            assert engine.qp_query(a.num)["state"] == 6
            a.qp.post_one(write)
            assert a.next().status == 5
    """)


def test_an_access_under_an_invalidated_key_waits_for_memory(in_process):
    in_process("""
        with Engine() as engine:
            engine.start()
            a, b = pair(engine)
            src, _ = memory(engine, 0x100)
            dst, aperture = memory(engine, 0x200)
            engine.mr_install(key=0x300, pd=1, access=7, importer=2, aperture=aperture, iova=0, length=4096,
                              extents=[(0, 4096)])
            write = WorkRequest(1, [Sge(src.addr, 64, 0x100)], opcode=WRITE, flags=SIGNALED, remote_addr=128, rkey=0x300)
            engine.invalidate([0x300], 5)
            assert event(engine, EventKind.QUIESCED).cookie == 5
            a.qp.post_one(write)
            fault = event(engine, EventKind.FAULT)
            assert fault == (EventKind.FAULT, 0x300, 1, 1, 128, 64), fault
            for number, call in ((116, lambda: engine.remap(0x300, 0, aperture, [(0, 4096)])),
                                 (22, lambda: engine.invalidate([0x200], 6)), (2, lambda: engine.mr_sequence(0x999))):
                try:
                    call()
                except OSError as error:
                    assert error.errno == number, error
                else:
                    raise AssertionError("was not refused")
            assert engine.stats()["parked"] == 1  # it asked under this sequence: a stale answer is nothing to ask again for
            engine.remap(0x300, 1, aperture, [(GONE, 64), (0, 64), (VACANT, 4096 - 128)])
            assert engine.stats()["parked"] == 1  # of these bytes nothing was said yet: their answer is still to come
            engine.remap(0x300, 1, aperture, [(0, 128), (4096, 64), (GONE, 4096 - 192)])
            assert a.next().status == 0 and dst.view[4096:4160] == src.view[:64]
    """)


def test_posting_says_which_request_was_not_posted(in_process):
    in_process("""
        with Engine() as engine:
            engine.start()
            a = End(engine)
            one = WorkRequest(1)
            for send in (a.qp.post_send, a.qp.post_recv):
                try:
                    send([one])
                except PostError as error:
                    assert (error.errno, error.bad) == (22, 0)
                else:
                    raise AssertionError("posting in RESET must fail")
            engine.qp_modify(a.num, *INIT)
            assert a.made.max_recv_wr == 32
            try:
                a.qp.post_recv([one] * 40)
            except PostError as error:
                assert (error.errno, error.bad) == (12, 32)
            engine.qp_modify(a.num, 1, {"state": 6})
            assert [a.next().status for _ in range(32)] == [5] * 32
            engine.qp_modify(a.num, 1, {"state": 0})
            a.qp.reset()
            assert a.cq.purge(a.num) == 0
    """)


def test_an_illegal_step_changes_nothing(in_process):
    in_process("""
        with Engine() as engine:
            engine.start()
            a = End(engine)
            for mask, attrs in ((1, {"state": 3}), (1 | 8, {"state": 1}), (1, {"state": 9})):
                try:
                    engine.qp_modify(a.num, mask, attrs)
                except OSError as error:
                    assert error.errno == 22
                else:
                    raise AssertionError("illegal step")
            try:
                engine.qp_modify(a.num, 1, {"colour": 3})
            except OSError as error:
                assert error.errno == 22 and "colour" in error.strerror
            assert engine.qp_query(a.num)["state"] == 0
            engine.qp_remove(a.num, 8)
            assert event(engine, EventKind.QP_GONE).cookie == 8
            engine.cq_remove(a.cq_number)
            engine.ctx_remove(a.ctx.slot)
    """)


def test_blocks_have_generations_and_the_log_counts_in_them(in_process, tmp_path):
    in_process(f"""
        log = {str(tmp_path / "oplog-0.bin")!r}
        with Engine(quantum=4096) as engine:
            engine.oplog_open(0, log, 100)
            engine.start()
            a, b = pair(engine)
            src, _ = memory(engine, 0x100)
            fd, gens = memfd("blocks", SIZE), memfd("gens", SIZE // 4096 * 4)
            aperture = engine.aperture_add(fd, SIZE, block=4096, gens_fd=gens)
            engine.blocks_release(aperture, 0, SIZE, recover=True)
            engine.blocks_allocate(aperture, 0, 8192)
            assert [int.from_bytes(os.pread(gens, 4, 4 * i), "little") for i in range(3)] == [2, 2, 1]
            engine.mr_install(key=0x300, pd=1, access=7, importer=0, aperture=aperture, iova=0, length=8192,
                              extents=[(4096, 4096), (0, 4096)])
            engine.cpu_write(aperture, 10, b"hello")
            assert engine.cpu_read(aperture, 9, 7) == b"\\0hello\\0"
            engine.blocks_release(aperture, 0, 4096)
            assert engine.epoch_advance() == engine.epoch == 1
            src.view[:8192] = b"x" * 8192
            a.qp.post_one(WorkRequest(1, [Sge(src.addr, 8192, 0x100)], flags=SIGNALED, remote_addr=0, rkey=0x300))
            assert a.next().status == 0
            assert engine.cpu_read(aperture, 0, 8192) == b"x" * 8192
            engine.oplog_flush()
            engine.quiesce([], 1)
            event(engine, EventKind.QUIESCED)
            data = open(log, "rb").read()
            assert int.from_bytes(data[24:32], "little") == 2
            assert int.from_bytes(data[4096 + 192 + 4 : 4096 + 192 + 8], "little") == 1 << 4
    """)


def test_surprise_unplug_swallows_writes_and_a_new_namespace_takes_them(in_process):
    in_process("""
        with Engine() as engine:
            engine.start()
            a, b = pair(engine)
            src, _ = memory(engine, 0x100)
            dst, aperture = memory(engine, 0x200)
            write = WorkRequest(1, [Sge(src.addr, 5, 0x100)], flags=SIGNALED, remote_addr=dst.addr, rkey=0x200)
            src.view[:5] = b"hello"
            engine.aperture_swap(aperture)
            a.qp.post_one(write)
            assert a.next().status == 0
            assert bytes(dst.view[:5]) == bytes(5)
            fd = memfd("next", SIZE)
            engine.aperture_swap(aperture, fd)
            a.qp.post_one(write)
            assert a.next().status == 0
            assert os.pread(fd, 5, 0) == b"hello"
    """)


def test_a_held_thread_holds_up_the_quiesce(in_process):
    in_process("""
        with Engine() as engine:
            engine.start()
            a, b = pair(engine)
            src, _ = memory(engine, 0x100)
            dst, _ = memory(engine, 0x200)
            assert hold_points()[1:] == ["op-start", "quantum-first", "quantum-half", "quantum-last", "completion", "quantum-next"]
            engine.hold_arm("quantum-half", 0x200)
            a.qp.post_one(WorkRequest(3, [Sge(src.addr, 4096, 0x100)], flags=SIGNALED, remote_addr=dst.addr, rkey=0x200))
            held = event(engine, EventKind.HELD)
            assert (held.code, held.cookie, held.offset) == (3, 0x200, 3)
            engine.quiesce([0x200], 4)
            assert engine.events() == []
            assert engine.mr_inflight([0x200]) == 1
            engine.hold_release("quantum-half")
            assert event(engine, EventKind.QUIESCED).cookie == 4
            a.next()
            try:
                engine.hold_arm("quantum-middle")
            except OSError as error:
                assert "quantum-half" in error.strerror
    """)


def test_a_host_file_that_shrinks_is_an_error_and_an_event_not_a_crash(in_process, tmp_path):
    in_process(f"""
        import faulthandler
        faulthandler.enable()
        path = {str(tmp_path / "host")!r}
        with open(path, "w+b") as file, Engine() as engine:
            file.truncate(SIZE)
            engine.start()
            a, b = pair(engine)
            src, _ = memory(engine, 0x100)
            aperture = engine.aperture_add(file.fileno(), SIZE, host=True)
            engine.mr_install(key=0x300, pd=1, access=7, importer=0, aperture=aperture, iova=0, length=SIZE, extents=[(0, SIZE)])
            write = WorkRequest(1, [Sge(src.addr, SIZE, 0x100)], flags=SIGNALED, remote_addr=0, rkey=0x300)
            a.qp.post_one(write)
            assert a.next().status == 0
            file.truncate(0)
            a.qp.post_one(write)
            assert a.next().status == 10
            assert event(engine, EventKind.SIGBUS).id == aperture
            try:
                engine.cpu_read(aperture, 0, 10)
            except OSError as error:
                assert error.errno == 14
    """)


def test_what_has_been_closed_says_so(in_process):
    in_process("""
        engine = Engine()
        engine.start()
        a = End(engine)
        for close, call in ((a.cq.close, lambda: a.cq.poll()), (a.qp.close, lambda: a.qp.post_one(WorkRequest(1))),
                            (engine.close, engine.stats), (engine.close, engine.fileno)):
            close()
            close()
            try:
                call()
            except OSError as error:
                assert "closed" in error.strerror
            else:
                raise AssertionError("a closed object answered")
    """)


def test_a_wait_ends_with_the_exception_of_a_signal_handler(in_process):
    in_process("""
        import signal, time
        with Engine() as engine:
            engine.start()
            a = End(engine)
            assert a.cq.wait(0.01) is False
            seen = []
            signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            assert a.cq.wait(0.2) is False and seen == [1]
            def stop(*_):
                raise KeyboardInterrupt
            signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            try:
                a.cq.wait(None)
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("the wait went on")
    """)


def test_a_configuration_without_sense_is_refused(in_process):
    in_process("""
        for wrong in ({"threads": 0}, {"threads": 9}, {"quantum": 100}, {"time_scale": 0.0}):
            try:
                Engine(**wrong)
            except OSError as error:
                assert error.errno == 22
            else:
                raise AssertionError(wrong)
        try:
            memfd("none", 0)
        except OSError as error:
            assert error.errno == 22
    """)
