/* SPDX-License-Identifier: Apache-2.0
 *
 * The C behind mr-revoke.pml's -DTOLD. For every step a line of the file $REACHED: the name of the state it began in, of the state it led to, and
 * that state, the model's variables as they are now. Each is NAME=VALUE, an array NAME=VALUE,VALUE, a queue its messages of three numbers each.
 *
 * It decides nothing: what the values mean is read in compare.py. With $WANTED, a state so written: the search stops where that state is reached,
 * and pan leaves the way there as a trail.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern void (*uerror)(char *);

static char line[1024];
static int ends;

static void put(const char *format, ...)
{
    va_list more;
    va_start(more, format);
    ends += vsnprintf(line + ends, sizeof line - ends, format, more);
    va_end(more);
}

static void put_queue(const char *name, int queue)
{
    put(" %s=", name);
    for (int at = 0; at < q_len(queue); at++)
        put("%d,%d,%d,", qrecv(queue, at, 0, 0), qrecv(queue, at, 1, 0), qrecv(queue, at, 2, 0));
}

static void put_mr(int at)
{
    put(" mr%d=%d,%d,%d,%d,%d,%d,%d", at, now.mr[at].state, now.mr[at].asking, now.mr[at].revoked,
        now.mr[at].told, now.mr[at].ending, now.mr[at].wanted, now.mr[at].again);
    put(" key%d=%d,%d,%d,%d", at, now.key[at].state, now.key[at].blocks, now.key[at].gen[0], now.key[at].gen[1]);
}

static void put_all(void)
{
    ends = 0;
    put("down=%d crashes=%d refusals=%d", now.down, now.crashes, now.refusals);
    put(" up=%d mem=%d which=%d tries=%d", now.up, now.mem, now.which, now.tries);
    put(" wish=%d cancelled=%d taken=%d", now.wish, now.cancelled, now.taken);
    put(" cut=%d owner=%d,%d,%d gen=%d,%d,%d", now.cut, now.owner[0], now.owner[1], now.owner[2], now.gen[0],
        now.gen[1], now.gen[2]);
    put(" phase=%d orphan=%d awaited=%d armed=%d patience=%d mine=%d", now.phase, now.orphan, now.awaited, now.armed,
        now.patience, now.mine);
    put(" busy=%d inside=%d spoilt=%d under=%d at=%d quanta=%d seen=%d", now.busy, now.inside, now.spoilt, now.under,
        now.at, now.quanta, now.seen);
    put_mr(0);
    put_mr(1);
    put_queue("work", now.work);
    put_queue("pending", now.pending);
}

/* FNV-1a: a name for a state; that no two states have the same is checked by whoever reads the file. */
static unsigned long name(void)
{
    unsigned long hash = 0xcbf29ce484222325ul;
    for (const char *at = line; *at; at++)
        hash = (hash ^ (unsigned char)*at) * 0x100000001b3ul;
    return hash;
}

/* A step is taken in one go, so what stands here when it ends is where it began. The first has begun nowhere. */
static unsigned long from;

void tell_from(void)
{
    put_all();
    from = name();
}

void tell_state(void)
{
    static FILE *file;
    static const char *wanted;
    if (!file) {
        file = fopen(getenv("REACHED") ? getenv("REACHED") : "reached", "w");
        wanted = getenv("WANTED");
        if (!file)
            uerror("the file of the states that are reached cannot be written");
    }
    put_all();
    fprintf(file, "%016lx %016lx %s\n", from, name(), line);
    if (wanted && strcmp(line, wanted) == 0)
        uerror("the wanted state is reached");
}
