/* SPDX-License-Identifier: Apache-2.0
 *
 * Touching memory where the ground may go away: a file that is truncated behind its mapping answers a touch with SIGBUS. The
 * handler jumps back when the address lies inside what the thread said it touches; every other fault goes to whoever
 * had the handler before (Python's faulthandler, a sanitizer), or kills as it always did.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>

#include "internal.h"

/* Whether the jump back restores the signal mask. SA_NODEFER leaves it alone, so that it need not (125 ns a copy); the race
 * detector's own handler, which calls ours, blocks everything. */
#ifdef __SANITIZE_THREAD__
#define SAVE_MASK 1
#else
#define SAVE_MASK 0
#endif

struct guard {
	sigjmp_buf back;
	const char *to, *from;
	uint64_t n;
	const void *volatile fault;
};

/* initial-exec: a handler must not be the first to touch a lazily allocated block. */
static __thread struct guard *volatile current __attribute__((tls_model("initial-exec")));

static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned installed;
static struct sigaction before;

static int inside(const char *p, const char *start, uint64_t n)
{
	return start && p >= start && p < start + n;
}

/* Not ours. Precondition: in the handler. */
static void pass_on(int signal, siginfo_t *info, void *context)
{
	if (before.sa_flags & SA_SIGINFO) {
		before.sa_sigaction(signal, info, context);
	} else if (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN) {
		struct sigaction fatal = { .sa_handler = SIG_DFL };

		sigaction(signal, &fatal, NULL); /* the instruction faults again, for good */
	} else {
		before.sa_handler(signal);
	}
}

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	struct guard *g = current;
	const char *p = info->si_addr;

	if (g && info->si_code > 0 && (inside(p, g->to, g->n) || inside(p, g->from, g->n))) {
		g->fault = p;
		siglongjmp(g->back, 1);
	}
	pass_on(signal, info, context);
}

int guard_install(void)
{
	struct sigaction ours = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };
	int err = 0;

	pthread_mutex_lock(&install_lock);
	sigemptyset(&ours.sa_mask);
	if (installed == 0 && sigaction(SIGBUS, &ours, &before))
		err = -errno;
	else
		installed++;
	pthread_mutex_unlock(&install_lock);
	return err;
}

/* Whoever chained to us afterwards stays in place, and we stay behind it. */
void guard_remove(void)
{
	struct sigaction now;

	pthread_mutex_lock(&install_lock);
	if (installed == 1 && !sigaction(SIGBUS, NULL, &now) && now.sa_sigaction == on_sigbus) {
		sigaction(SIGBUS, &before, NULL);
		installed = 0;
	} else if (installed > 1) {
		installed--;
	}
	pthread_mutex_unlock(&install_lock);
}

/* The last word goes last and in one piece where it is aligned. The ranges may overlap. */
static void move(char *to, const char *from, uint64_t n)
{
	uint64_t tail;

	if (n < sizeof(tail)) {
		memmove(to, from, n);
		return;
	}
	memcpy(&tail, from + n - sizeof(tail), sizeof(tail));
	memmove(to, from, n - sizeof(tail));
	to += n - sizeof(tail);
	if ((uintptr_t)to % sizeof(tail) == 0)
		emu_land((uint64_t *)(void *)to, tail);
	else
		memcpy(to, &tail, sizeof(tail));
}

int guarded_call(const void *start, uint64_t n, void (*touch)(void *), void *argument)
{
	struct guard g = { .to = start, .n = n };

	if (sigsetjmp(g.back, SAVE_MASK)) {
		current = NULL;
		return -EFAULT;
	}
	current = &g;
	emu_keep_order();
	touch(argument);
	emu_keep_order();
	current = NULL;
	return 0;
}

int guarded_copy(void *to, const void *from, uint64_t n, int fill, const void **fault)
{
	struct guard g = { .to = to, .from = from, .n = n };

	if (sigsetjmp(g.back, SAVE_MASK)) {
		current = NULL;
		*fault = g.fault;
		return -EFAULT;
	}
	current = &g;
	emu_keep_order();
	if (from)
		move(to, from, n);
	else
		memset(to, fill, n);
	emu_keep_order(); /* the copy stays inside its guard */
	current = NULL;
	return 0;
}
