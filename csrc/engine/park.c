/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations that wait for memory: page faults of dynamic importers.
 *
 *   owner, in a section                         control thread
 *   finds no memory at this byte                translation and state published
 *   --- lock of parks ---                       --- lock of parks ---
 *   looks again: still none                     turns + 1, kicks everybody who waits under the key
 *   links its queue pair, reports the fault     --- unlock ---
 *   --- unlock ---
 *
 * Either the owner, looking under the lock, sees what was published, or the control thread finds it linked: no wake-up is lost. A queue
 * pair stays linked while it is woken and finds nothing, so that what it has asked for is known, and is asked for again only
 * when an attempt to answer has come in between (it was stale, or it was about other bytes). Under a key of another importer, which its
 * owner has parked, nothing is reported: the owner knows, and gives a translation unasked. Only the queue pair waits; its
 * thread goes on with others. One fault a queue pair is reported at a time, by a note that the queue pair keeps.
 */
#include "internal.h"

/* Precondition: lock. */
static void link_in(struct parks *all, struct emu_qp *qp)
{
	struct parking *p = &qp->parking;

	if (p->linked)
		return;
	p->linked = 1;
	p->prev = NULL;
	p->next = all->first;
	if (all->first)
		all->first->parking.prev = qp;
	all->first = qp;
	emu_poke(&all->count, all->count + 1);
}

/* Precondition: lock, linked. */
static void link_out(struct parks *all, struct emu_qp *qp)
{
	struct parking *p = &qp->parking;

	*(p->prev ? &p->prev->parking.next : &all->first) = p->next;
	if (p->next)
		p->next->parking.prev = p->prev;
	p->linked = 0;
	emu_poke(&all->count, all->count - 1);
}

static int asked_already(const struct emu_qp *qp, const struct emu_mr *mr)
{
	const struct parking *p = &qp->parking;

	return p->linked && p->key == mr->key && p->serial == mr->serial && p->done == qp->op.done;
}

/* Precondition: lock. */
static void ask(struct emu_qp *qp, struct emu_mr *mr, const struct miss *miss)
{
	struct emu_engine *e = qp->thread->e;
	struct parking *p = &qp->parking;

	link_in(&e->parks, qp);
	p->key = mr->key;
	p->serial = mr->serial;
	p->done = qp->op.done;
	p->turns = mr->turns;
	p->answers = mr->answers;
	if (mr->importer != EMU_IMP_DYNAMIC)
		return;
	figures_add(&qp->thread->n_faults, 1);
	events_keep(&e->events, &p->note, &(struct emu_engine_event){ .kind = EMU_ENG_FAULT, .id = mr->key,
		.code = (uint32_t)miss->write, .cookie = emu_observe(&mr->sequence), .offset = miss->addr - mr->iova,
		.bytes = miss->bytes });
}

/* Precondition: lock. */
static enum parked decide(struct emu_qp *qp, struct emu_mr *mr, const struct miss *miss)
{
	enum whereabouts where = mr_look(mr, miss->addr);
	const struct parking *p = &qp->parking;
	int asked = asked_already(qp, mr);

	if (where == HERE || !respond_peer(qp))
		return PARK_LOOK_AGAIN;
	if (where == GONE && asked && p->answers != mr->answers)
		return PARK_FAILED;
	if (!asked || p->turns != mr->turns)
		ask(qp, mr, miss);
	return PARK_WAITS;
}

enum parked park(struct emu_qp *qp, struct emu_mr *mr, const struct miss *miss)
{
	struct parks *all = &qp->thread->e->parks;
	enum parked verdict;

	pthread_mutex_lock(&all->lock);
	verdict = decide(qp, mr, miss);
	pthread_mutex_unlock(&all->lock);
	return verdict;
}

void park_leave(struct emu_qp *qp)
{
	struct emu_engine *e = qp->thread->e;

	if (!qp->parking.linked) /* only the owner links */
		return;
	pthread_mutex_lock(&e->parks.lock);
	link_out(&e->parks, qp);
	events_withdraw(&e->events, &qp->parking.note);
	pthread_mutex_unlock(&e->parks.lock);
}

void park_wake(struct emu_engine *e, struct emu_mr *mr, int tried, int accepted)
{
	pthread_mutex_lock(&e->parks.lock);
	mr->turns += (uint64_t)tried;
	mr->answers += (uint64_t)accepted;
	for (struct emu_qp *qp = e->parks.first; qp; qp = qp->parking.next)
		if (qp->parking.key == mr->key)
			thread_kick(qp);
	pthread_mutex_unlock(&e->parks.lock);
}

void park_wake_peers(struct emu_engine *e, uint32_t qp_num)
{
	pthread_mutex_lock(&e->parks.lock);
	for (struct emu_qp *qp = e->parks.first; qp; qp = qp->parking.next)
		if (qp->op.peer_num == qp_num)
			thread_kick(qp);
	pthread_mutex_unlock(&e->parks.lock);
}
