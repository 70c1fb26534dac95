"""First steps: a file is registered, another process writes into it, the file is truncated, the writer gets the error code."""

from multiprocessing import Pipe, get_context

import emu
from emu import verbs as v

BOTH = v.IBV_ACCESS_LOCAL_WRITE | v.IBV_ACCESS_REMOTE_WRITE


def queue_pair(ctx):
    pd, cq = v.PD(ctx), v.CQ(ctx, 16)
    return pd, cq, v.QP(pd, v.QPInitAttr(v.IBV_QPT_RC, scq=cq, rcq=cq), v.QPAttr(qp_access_flags=BOTH))


def writer(directory, pipe):
    pd, cq, qp = queue_pair(v.Context(dir=directory))
    pipe.send(qp.qp_num)
    holder, rkey, address = pipe.recv()
    qp.to_rts(v.QPAttr(dest_qp_num=holder, timeout=14, retry_cnt=7))
    mr = v.MR(pd, 4096, BOTH)
    wr = v.SendWR(opcode=v.IBV_WR_RDMA_WRITE, num_sge=1, sg=[v.SGE(mr.buf, mr.length, mr.lkey)])
    wr.set_wr_rdma(rkey, address)
    wc = v.WC()
    while wc.status == v.IBV_WC_SUCCESS:
        qp.post_send(wr)
        cq.wait()
        wc = cq.poll()[1][0]
        pipe.send(wc.status.name)


if __name__ == "__main__":
    with emu.node(protocol="mr-revoke") as node, node.context() as ctx:
        ctx.fs.create("/mnt/a", 4096)
        pd, cq, qp = queue_pair(ctx)
        mr = v.MR(pd, 4096, BOTH, file="/mnt/a")
        pipe, other_end = Pipe()
        get_context("spawn").Process(target=writer, args=(node.dir, other_end), daemon=True).start()
        other_end.close()
        qp.to_rts(v.QPAttr(dest_qp_num=pipe.recv(), qp_access_flags=BOTH))
        pipe.send((qp.qp_num, mr.rkey, mr.buf))
        print("before:", pipe.recv())
        ctx.fs.truncate("/mnt/a", 0)
        print("after: ", next(status for status in iter(pipe.recv, None) if status != "IBV_WC_SUCCESS"))
