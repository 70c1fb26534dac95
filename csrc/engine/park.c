/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations that wait for memory: page faults of dynamic importers.
 *
 *   owner, in a section                         control thread
 *   finds no memory at this byte                translation and state published
 *   --- lock of parks ---                       --- lock of parks ---
 *   looks again: still none                     kicks everybody who waits under the key
 *   links its queue pair, reports the fault     --- unlock ---
 *   --- unlock ---
 *
 * Either the owner, looking under the lock, sees what was published, or the control thread finds it linked: no wake-up is lost. A queue
 * pair stays linked while it is woken and finds nothing, so that what it has asked for is known.
 *
 * It asks once: for these bytes, under this sequence of the key. Until that report is answered it says no more, however often answers
 * about other bytes wake it; else each of n who wait would ask n times. Nobody waits for ever by that, since whoever takes the report
 * answers it by a remap, tried until the engine takes it or refuses it as stale (or takes the key away, which wakes too):
 *
 *   accepted   its bytes are there, or GONE: it goes on, or fails. Before it looks, they may be taken again: that is an invalidation,
 *              the sequence is another one, and it asks anew. Or an answer about other bytes may be silent about its own, so GONE is
 *              noted at the queue pair, by who says it.
 *   stale      likewise. The sequence has grown since it asked, and the refusal wakes it.
 *   and then   other bytes of the same message, or of its other side under the same key, are another question.
 *
 * Under a key of another importer, which its owner has parked, nothing is reported: the owner knows, and gives a translation unasked.
 * Only the queue pair waits; its thread goes on with others. One fault a queue pair is reported at a time, by a note that the queue pair
 * keeps.
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

static int asked_already(const struct emu_qp *qp, const struct emu_mr *mr, const struct miss *miss)
{
	const struct parking *p = &qp->parking;

	return p->linked && p->key == mr->key && p->serial == mr->serial && p->done == qp->op.done &&
	       p->at == miss->addr - mr->iova && p->sequence == emu_observe(&mr->sequence);
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
	p->at = miss->addr - mr->iova;
	p->sequence = emu_observe(&mr->sequence);
	p->gone = 0;
	if (mr->importer != EMU_IMP_DYNAMIC)
		return;
	figures_add(&qp->thread->n_faults, 1);
	events_keep(&e->events, &p->note, &(struct emu_engine_event){ .kind = EMU_ENG_FAULT, .id = mr->key,
		.code = (uint32_t)miss->write, .cookie = p->sequence, .offset = p->at,
		.bytes = miss->bytes });
}

/* Precondition: lock. */
static enum parked decide(struct emu_qp *qp, struct emu_mr *mr, const struct miss *miss)
{
	enum whereabouts where = mr_look(mr, miss->addr);
	const struct parking *p = &qp->parking;
	int asked = asked_already(qp, mr, miss);

	if (where == HERE || !respond_peer(qp))
		return PARK_LOOK_AGAIN;
	if (asked && p->gone)
		return PARK_FAILED;
	if (!asked)
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

void park_wake(struct emu_engine *e, struct emu_mr *mr, int accepted)
{
	pthread_mutex_lock(&e->parks.lock);
	for (struct emu_qp *qp = e->parks.first; qp; qp = qp->parking.next) {
		struct parking *p = &qp->parking;

		if (p->key != mr->key)
			continue;
		if (accepted && p->serial == mr->serial && mr_look(mr, mr->iova + p->at) == GONE)
			p->gone = 1;
		thread_kick(qp);
	}
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
