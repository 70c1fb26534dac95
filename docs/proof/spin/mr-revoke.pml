/* SPDX-License-Identifier: Apache-2.0
 *
 * mr-revoke under a truncate, in the words of Spin: an equal model of emu's small world (one holder with a peer, one reclaimer, one
 * taker; a crash, a refusal of the hardware, a cancel), written by hand. docs/spin.md tells how the two are compared.
 *
 *     Holder, Reclaimer, Taker --ask--> Core --work--> Shell --> engine --pending--> Voice --says--> Core
 *                                        \ clock --> Clock --says--> Core
 *     Peer writes under the holder's key, straight into the engine, at any moment
 *
 * Core      the broker's books. One message is one atomic step, at the end of which everything it wants done stands in `work`
 * Shell     does it in order, one piece at a time; no message reaches Core before all of it is done
 * Voice     one for everybody who may wait for the engine; its answers come in any order
 * Peer      one operation at a time, a quantum a block. A quantum looks at the key as it begins, and is on memory until it ends
 *
 * Device: blocks 0, 1, 2. File a has 0 and 1 and is cut to half a block (0 stays, 1 goes); file b, of the taker, takes one block.
 *
 * Smaller worlds: -DCRASHES=0 -DREFUSALS=0 -DAGAIN=0 -DCANCELS=0 -DTAKERS=0.  Wrong ones: -DWRONG_... (see WRONG below).
 * With -DTOLD lines of C at the beginning and at the end of every step (FROM, REACHED) write down where it leads (told.h); without, this is
 * plain Promela.
 */

#ifndef CRASHES
#define CRASHES 1          /* of the holder, the reclaimer, the broker together */
#endif
#ifndef REFUSALS
#define REFUSALS 1         /* quiesces and unmaps that the hardware refuses */
#endif
#ifndef AGAIN
#define AGAIN 1            /* how often the holder may register anew: 0 or 1 */
#endif
#ifndef CANCELS
#define CANCELS 1
#endif
#ifndef TAKERS
#define TAKERS 1
#endif
#define MRS 2              /* an MR is known by which registration it came from */
#define RECLAIM MRS        /* who waits for an answer of the engine: an MR's own end, or the reclaim */
#define NOBODY 3
#define BIT(mr) (1 << (mr))

mtype = {
	/* what a client asks of Core, and what comes back */
	reg_mr, dereg_mr, truncate, cancel, create, lost, done, failed, interrupted,
	/* what Core wants done */
	install, quiesce, unmap, remove, release, allocate, answer,
	/* what the engine and the clock say */
	installed, quiesced, unmapped, rang,
	/* an MR in the books; a key in the engine */
	installing, live, fenced,
	/* where a reclaim is */
	fencing, refused, unmapping,
	/* what clients know */
	idle, asked, has, letting, fresh
};

typedef Region {                /* an MR in Core's books; state 0: there is none */
	mtype state;                /* installing, live, unmapped */
	bit asking;                 /* its registration has not been answered */
	bit revoked;                /* the reclaim took it */
	bit told;                   /* and its holder was told so */
	bit ending;                 /* it is being taken down, */
	bit wanted;                 /* since somebody asked; */
	bit again                   /* what the hardware refused will be asked again when the clock rings */
}

typedef Key {                   /* in the engine; state 0: there is none */
	mtype state;                /* live, fenced */
	byte blocks;                /* 0 .. blocks-1 of the device */
	byte gen[2]                 /* their generations when it was installed */
}

/* ---- Core's books */
Region mr[MRS];
mtype phase;                    /* of the reclaim; 0: there is none */
bit orphan;                     /* who asked for it is gone */
bit awaited;                    /* an answer of the engine is */
bit armed;                      /* the protocol's timer */
bit patience;                   /* Core's own: an unmap that was refused is asked for again */
byte mine;                      /* the MRs that the reclaim has met */
bit cut;                        /* file a has been truncated */
byte owner[3];                  /* of each block: 0 nobody, 1 file a, 2 file b */

/* ---- the engine */
Key key[MRS];
byte gen[3];                    /* of each block: even while it is owned, odd while it is free */
bit busy, inside, spoilt;       /* the peer has an operation; it is within a quantum; some quantum ran on memory that was not a's */
byte under, at, quanta, seen;   /* whose key, which quantum of how many, the generation by which this one was translated */

/* ---- clients */
bit up;                         /* the holder has a session */
mtype mem;                      /* of its MR it knows: idle, asked, has, letting */
byte which;                     /* which MR it has, */
byte tries;                     /* and how often it has registered */
mtype wish;                     /* of the reclaimer: fresh, asked, done, interrupted, lost */
bit cancelled;
bit taken;                      /* the taker has asked */

byte crashes, refusals;         /* left */
bit down = 1;                   /* nothing runs before the beginning, nor behind a crash of the broker and its start */

chan ask = [0] of { mtype, byte };               /* who asks waits until Core has taken its step */
chan says = [0] of { mtype, byte, bit };         /* the engine's answer, for whom, whether it is a refusal */
chan work = [4] of { mtype, byte, byte };        /* what is to be done, to which MRs (a block; the answer), for whom */
chan pending = [4] of { mtype, byte, bit };      /* what the engine has yet to say, to whom, whether it waits for the peer's quantum */

byte i, some, n, who, held;         /* of one step; 0 between any two */
mtype what;

#define MAPPED(x) (mr[x].state == installing || mr[x].state == live)
#define REST (!down && empty(work))              /* Core may be spoken to */

/* ---- WRONG: models that must not agree with emu, and each of which agrees with the emu that is wrong alike (compare.py: ALIKE) */
#ifdef WRONG_QUIESCE_DOES_NOT_WAIT       /* whoever is inside */
#define WAITS 0
#else
#define WAITS inside
#endif
#ifdef WRONG_LAST_QUANTUM_IS_FREE        /* nobody looks whether the key is fenced */
#define ADMITTED (key[under].state == live || (key[under].state == fenced && at + 1 == quanta))
#else
#define ADMITTED (key[under].state == live)
#endif
#ifdef WRONG_REVOKE_LOST                 /* a reclaim passes by an MR that is still being registered */
#define MET(x) (MAPPED(x) && !mr[x].asking)
#else
#define MET(x) MAPPED(x)
#endif
#ifdef WRONG_UNMAP_REFUSAL_IS_DONE       /* nobody looks at the refusal */
#define UNMAP_REFUSED false
#else
#define UNMAP_REFUSED held
#endif
#ifdef WRONG_UNMAP_ANSWER_LOST
#define UNMAP_TOLD(to) skip
#else
#define UNMAP_TOLD(to) pending!!unmapped, to, 0
#endif
#ifdef WRONG_NOT_RECOVERED               /* a start of the broker leaves generations as they are */
#define UNSOUND(x) false
#else
#define UNSOUND(x) ((gen[x] % 2 == 0) != (owner[x] != 0))
#endif

#ifdef TOLD
c_decl { extern void tell_from(void); extern void tell_state(void); };
c_code { \#include "told.h" };
#define FROM c_code { tell_from(); }
#define REACHED c_code { tell_state(); }
#else
#define FROM skip
#define REACHED skip
#endif

/* ---- answers: those that stand first in line are there at once */

inline deliver(to, word)
{
	if
	:: to == RECLAIM -> wish = word
	:: to == NOBODY                       /* the taker does not care */
	:: else ->
		if
		:: mem == asked && word == done -> mem = has; which = to
		:: mem == letting && word == failed -> mem = has
		:: else -> mem = idle; which = 0
		fi
	fi
}

inline answers()
{
	do
	:: work?[answer, _, _] -> work?_, n, who; deliver(who, n)
	:: else -> break
	od;
	n = 0; who = 0
}

/* ---- an MR's way out: quiesce, unmap, remove, answer */

inline end_of(x)
{
	work!remove, x, 0;
	if
	:: mr[x].wanted && up -> work!answer, done, x
	:: else
	fi;
	mr[x].state = 0; mr[x].revoked = 0; mr[x].told = 0; mr[x].ending = 0; mr[x].wanted = 0
}

inline take_down(x)
{
	mr[x].ending = 1;
	if
	:: MAPPED(x) -> work!quiesce, BIT(x), x
	:: else -> end_of(x)
	fi
}

inline refused_to(x)                      /* the hardware, an end of an MR */
{
	if
	:: mr[x].wanted && up -> mr[x].ending = 0; mr[x].wanted = 0; work!answer, failed, x
	:: else -> mr[x].again = 1
	fi
}

/* ---- the reclaim: gate, notify, quiesce; unmap; apply, free, reply */

inline revoke()
{
	i = 0; some = 0;
	do
	:: i < MRS ->
		if
		:: MET(i) -> mr[i].revoked = 1; some = some | BIT(i)
		:: else
		fi;
		i++
	:: else -> break
	od;
	i = 0; mine = mine | some;
	if
	:: some -> phase = fencing; awaited = 1; work!quiesce, some, RECLAIM
	:: else -> take_out()
	fi;
	some = 0
}

inline reached_by_reclaim()               /* some: what it has revoked and is still mapped */
{
	some = 0;
	if :: (mine & BIT(0)) && MAPPED(0) -> some = some | BIT(0) :: else fi;
	if :: (mine & BIT(1)) && MAPPED(1) -> some = some | BIT(1) :: else fi
}

inline take_out()
{
	reached_by_reclaim();
	if
	:: some -> phase = unmapping; awaited = 1; work!unmap, some, RECLAIM
	:: else -> shorten()
	fi;
	some = 0
}

inline shorten()
{
	cut = 1; owner[1] = 0;
	work!release, 1, 0;
	if
	:: !orphan -> work!answer, done, RECLAIM
	:: else
	fi;
	no_reclaim()
}

inline no_reclaim()
{
	phase = 0; orphan = 0; awaited = 0; armed = 0; patience = 0; mine = 0
}

/* ---- Core */

inline registration(x)
{
	if
	:: phase != 0 -> work!answer, failed, x                    /* the gate */
	:: else -> mr[x].state = installing; mr[x].asking = 1; work!install, x, 0
	fi
}

inline has_key(x)
{
	mr[x].asking = 0;
	if
	:: mr[x].state == installing -> mr[x].state = live
	:: else
	fi;
	if
	:: mr[x].revoked || !up ->
		if
		:: up -> work!answer, failed, x
		:: else
		fi;
		take_down(x)
	:: else -> work!answer, done, x
	fi
}

inline begin_reclaim()
{
	i = 0;
	do
	:: i < MRS ->
		if
		:: MAPPED(i) && up && !mr[i].asking -> mr[i].told = 1
		:: else
		fi;
		i++
	:: else -> break
	od;
	revoke()
}

inline holder_lost()
{
	i = 0;
	do
	:: i < MRS ->
		if
		:: mr[i].state && !mr[i].asking && !mr[i].ending -> take_down(i)
		:: else
		fi;
		i++
	:: else -> break
	od;
	i = 0
}

inline one_file_more()
{
	if
	:: owner[1] == 0 -> owner[1] = 2; work!allocate, 1, 0
	:: else -> owner[2] = 2; work!allocate, 2, 0
	fi;
	work!answer, done, NOBODY
}

inline heard_by_reclaim()
{
	if
	:: !awaited                            /* it was interrupted, and does not wait any more */
	:: awaited && what == quiesced && !held -> awaited = 0; take_out()
	:: awaited && what == quiesced && held -> awaited = 0; phase = refused; armed = 1
	:: awaited && what == unmapped && !UNMAP_REFUSED ->
		awaited = 0;
		reached_by_reclaim();
		if :: some & BIT(0) -> mr[0].state = unmapped :: else fi;
		if :: some & BIT(1) -> mr[1].state = unmapped :: else fi;
		some = 0;
		shorten()
	:: awaited && what == unmapped && UNMAP_REFUSED -> awaited = 0; patience = 1
	fi
}

inline heard_by_mr(x)
{
	if
	:: held -> refused_to(x)
	:: !held && what == quiesced && MAPPED(x) -> work!unmap, BIT(x), x
	:: else ->
		if
		:: MAPPED(x) && what == unmapped -> mr[x].state = unmapped
		:: else
		fi;
		end_of(x)
	fi
}

inline rings(x)
{
	if
	:: x == RECLAIM && armed -> armed = 0; revoke()
	:: x == RECLAIM && patience -> patience = 0; take_out()
	:: x < MRS -> mr[x].again = 0; take_down(x)
	fi
}

active proctype Core()
{
end:
	do
	:: atomic { ask?reg_mr, who -> registration(who); answers(); REACHED }
	:: atomic { ask?dereg_mr, who -> mr[who].wanted = 1; take_down(who); answers(); REACHED }
	:: atomic { ask?truncate, who -> begin_reclaim(); answers(); REACHED }
	:: atomic { ask?cancel, who -> no_reclaim(); work!answer, interrupted, RECLAIM; answers(); REACHED }
	:: atomic { ask?create, who -> one_file_more(); answers(); REACHED }
	:: atomic { ask?lost, who ->
		if
		:: who == RECLAIM -> orphan = 1    /* it goes on, for nobody */
		:: else -> holder_lost()
		fi;
		answers(); REACHED }
	:: atomic { says?what, who, held ->
		if
		:: what == installed -> has_key(who)
		:: what == rang -> rings(who)
		:: (what == quiesced || what == unmapped) && who == RECLAIM -> heard_by_reclaim()
		:: (what == quiesced || what == unmapped) && who < MRS -> heard_by_mr(who)
		fi;
		what = 0; held = 0;
		answers(); REACHED }
	od
}

/* ---- what Core wants done */

inline translate(x)
{
	key[x].state = live; key[x].blocks = (cut -> 1 : 2);
	key[x].gen[0] = gen[0]; key[x].gen[1] = (cut -> 0 : gen[1]);
	pending!!installed, x, 0
}

inline forget_key(x)
{
	key[x].state = 0; key[x].blocks = 0; key[x].gen[0] = 0; key[x].gen[1] = 0
}

inline fence(set, whom)
{
	if :: (set & BIT(0)) && key[0].state -> key[0].state = fenced :: else fi;
	if :: (set & BIT(1)) && key[1].state -> key[1].state = fenced :: else fi;
	pending!!quiesced, whom, WAITS
}

inline drop(set, whom)
{
	if :: set & BIT(0) -> forget_key(0) :: else fi;
	if :: set & BIT(1) -> forget_key(1) :: else fi;
	UNMAP_TOLD(whom)
}

active proctype Shell()
{
end:
	do
	:: atomic { !down && nempty(work) -> FROM;
		work?what, some, who;
		if
		:: what == install -> translate(some)
		:: what == quiesce -> fence(some, who)
		:: what == unmap -> drop(some, who)
		:: what == remove -> forget_key(some)
		:: what == release -> gen[some] = gen[some] + 1
		:: what == allocate -> gen[some] = gen[some] + 1
		fi;
		what = 0; some = 0; who = 0;
		answers(); REACHED }
	od
}

/* ---- what the engine says, and the clock */

proctype Voice(byte whom)
{
end:
	do
	:: atomic { REST && pending??[installed, eval(whom), 0] -> FROM; pending??installed, eval(whom), 0; says!installed, whom, 0 }
	:: atomic { REST && pending??[quiesced, eval(whom), 0] -> FROM; pending??quiesced, eval(whom), 0; says!quiesced, whom, 0 }
	:: atomic { REST && pending??[unmapped, eval(whom), 0] -> FROM; pending??unmapped, eval(whom), 0; says!unmapped, whom, 0 }
	:: atomic { REST && refusals && pending??[quiesced, eval(whom), 0] -> FROM;
		refusals--; pending??quiesced, eval(whom), 0; says!quiesced, whom, 1 }
	:: atomic { REST && refusals && pending??[unmapped, eval(whom), 0] -> FROM;
		refusals--; pending??unmapped, eval(whom), 0; says!unmapped, whom, 1 }
	od
}

active proctype Clock()
{
end:
	do
	:: atomic { REST && (armed || patience) -> FROM; says!rang, RECLAIM, 0 }
	:: atomic { REST && mr[0].again -> FROM; says!rang, 0, 0 }
	:: atomic { REST && mr[1].again -> FROM; says!rang, 1, 0 }
	od
}

/* ---- clients */

active proctype Holder()
{
end:
	do
	:: atomic { REST && up && mem == idle && tries < 1 + AGAIN -> FROM; mem = asked; tries++; ask!reg_mr, tries - 1 }
	:: atomic { REST && up && mem == has -> FROM; mem = letting; ask!dereg_mr, which }
	:: atomic { REST && up && crashes -> FROM; crashes--; up = 0; mem = idle; which = 0; ask!lost, 0 }
	od
}

active proctype Reclaimer()
{
end:
	do
	:: atomic { REST && wish == fresh -> FROM; wish = asked; ask!truncate, 0 }
	:: atomic { REST && wish == asked && CANCELS && !cancelled -> FROM; cancelled = 1; ask!cancel, 0 }
	:: atomic { REST && wish == asked && crashes -> FROM; crashes--; wish = lost; cancelled = 0; ask!lost, RECLAIM }
	od
}

active proctype Taker()
{
end:
	do
	:: atomic { REST && TAKERS && !taken -> FROM; taken = 1; ask!create, 0 }
	od
}

/* ---- the peer's WRITEs */

inline over()
{
	busy = 0; inside = 0; spoilt = 0; under = 0; at = 0; quanta = 0; seen = 0
}

inline look()                              /* is this memory, now, a's, and as it was translated? */
{
	if
	:: owner[at] != 1 -> spoilt = 1
	:: else
	fi;
	assert(owner[at] == 1 && gen[at] == seen)
}

active proctype Peer()
{
end:
	do
	:: atomic { !down && !busy && mem == has && key[which].state == live -> FROM;
		busy = 1; under = which; quanta = key[which].blocks; REACHED }
	:: atomic { !down && busy && !inside -> FROM;
		if
		:: ADMITTED -> inside = 1; seen = key[under].gen[at]; look()
		:: else -> over()                  /* it ends with an error */
		fi;
		REACHED }
	:: atomic { !down && inside -> FROM;
		look();
		n = len(pending);                  /* whoever waited for this quantum waits no more */
		do
		:: n > 0 -> pending?what, who, held; pending!what, who, 0; n--
		:: else -> break
		od;
		what = 0; who = 0; held = 0;
		if
		:: at + 1 < quanta -> at++; inside = 0; seen = 0
		:: else -> assert(!spoilt); over()
		fi;
		REACHED }
	od
}

/* ---- a kill -9 of the broker, and its start: files and generations are left, the engine is empty */

inline sound(x)
{
	if
	:: UNSOUND(x) -> gen[x] = gen[x] + 1
	:: else
	fi
}

active proctype Crash()
{
end:
	do
	:: atomic { !down && crashes -> FROM;
		crashes--; down = 1;
		do :: work?_, _, _ :: empty(work) -> break od;
		do :: pending?_, _, _ :: empty(pending) -> break od;
		i = 0;
		do
		:: i < MRS ->
			mr[i].state = 0; mr[i].asking = 0; mr[i].revoked = 0; mr[i].told = 0; mr[i].ending = 0; mr[i].wanted = 0; mr[i].again = 0;
			forget_key(i); i++
		:: else -> break
		od;
		i = 0;
		no_reclaim(); over();
		up = 0; mem = idle; which = 0;
		if
		:: wish == asked -> wish = lost
		:: else
		fi;
		cancelled = 0;
		sound(0); sound(1); sound(2);
		REACHED }
	od
}

init
{
	atomic {
		crashes = CRASHES; refusals = REFUSALS;
		down = 0; up = 1; mem = idle; wish = fresh;
		owner[0] = 1; owner[1] = 1; gen[2] = 1;
		run Voice(0); run Voice(1); run Voice(RECLAIM);
		REACHED }
}
