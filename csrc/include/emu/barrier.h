/* SPDX-License-Identifier: Apache-2.0
 *
 * Every atomic of emu goes through this header; each macro is named for its use, so that a reader sees at the
 * call what the other party is promised. Compiled as C11 atomics on plain integers (the shared formats are plain
 * structs, also read from Python), hence the GCC builtins in place of _Atomic.
 */
#ifndef EMU_BARRIER_H
#define EMU_BARRIER_H

/* Hand over: everything written before is visible to whoever sees the new value through emu_observe(). */
#define emu_publish(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define emu_observe(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)

/* A value whose order against others does not matter (statistics, hints that are checked again). */
#define emu_peek(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define emu_poke(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define emu_count(p, n) __atomic_fetch_add((p), (n), __ATOMIC_RELAXED)

/* One side of a store-load handshake: (store A; load B) against (store B; load A). Each side stores, then
 * emu_handshake(), then loads: at least one of them sees the other's store. Quiesce, sleep and bell need it. */
#define emu_handshake() __atomic_thread_fence(__ATOMIC_SEQ_CST)

/* The same at a place that csrc/tests/litmus.c shows to be needed, by taking it away in a build of its own. */
enum emu_handshake_site {
	EMU_AT_NONE = 0,
	EMU_AT_SECTION_ENTER = 1,
	EMU_AT_POLL_STOP = 2,
	EMU_AT_POST_SEND = 3,
	EMU_AT_SLEEP = 4,
	EMU_AT_POST_RECV = 5,
	EMU_AT_HOLD = 6,
	EMU_HANDSHAKE_SITES = 7,
};

#ifdef EMU_LITMUS
extern unsigned emu_weakened; /* enum emu_handshake_site */
#define emu_handshake_at(site)                     \
	do {                                       \
		if (emu_peek(&emu_weakened) != (site)) \
			emu_handshake();           \
		else                               \
			emu_keep_order();          \
	} while (0)
#else
#define emu_handshake_at(site) emu_handshake()
#endif

/* The compiler keeps what is before it before it: against a signal handler on the same thread. */
#define emu_keep_order() __atomic_signal_fence(__ATOMIC_SEQ_CST)

/* Read-modify-write, both orders. */
#define emu_fetch_add(p, n) __atomic_fetch_add((p), (n), __ATOMIC_ACQ_REL)
#define emu_fetch_or(p, n) __atomic_fetch_or((p), (n), __ATOMIC_ACQ_REL)
#define emu_fetch_and(p, n) __atomic_fetch_and((p), (n), __ATOMIC_ACQ_REL)
#define emu_swap(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQ_REL)
#define emu_cas(p, expected, v) \
	__atomic_compare_exchange_n((p), (expected), (v), 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)

/* The last word of a copy, in one piece, after all that was stored before it: programs poll it. It may fault, which the race
 * detector's own atomics do not survive; it learns of the order from the completion that follows. */
#ifdef __SANITIZE_THREAD__
#define emu_land(p, v) (*(volatile __typeof__(*(p)) *)(p) = (v))
#else
#define emu_land(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#endif

/* One spin of a waiting loop. */
#if defined(__x86_64__) || defined(__i386__)
#define emu_pause() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define emu_pause() __asm__ __volatile__("yield" ::: "memory")
#else
#define emu_pause() __asm__ __volatile__("" ::: "memory")
#endif

#endif
