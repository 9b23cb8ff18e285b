/* Copyright (c) 2026, The kvm.vnuma authors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Lets guests start on a fake host that are pinned and bound to what the machine does not have.
 *
 * A fake host's /sys names pCPUs and nodes of its own. Reading them needs no help; using them does,
 * since the kernel refuses them with EINVAL. Preloaded into libvirtd, which hands LD_PRELOAD on to
 * QEMU, this library lets such requests through:
 *
 *   sched_setaffinity                     a pCPU of the fake host becomes one of the machine's
 *   sched_getaffinity                     answers what was asked for, in a mask of 4096 bits
 *   mbind, set_mempolicy, migrate_pages   any node of the fake host becomes node 0
 *
 * What the fake host does not have either is refused as the kernel would. Every request is logged to
 * /var/log/libvirt/fakenuma.log as a line of JSON: the proof of what was asked for.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CPUS 4096
#define NODES 1024
#define WORD_BITS (8 * sizeof(unsigned long))
#define LOG "/var/log/libvirt/fakenuma.log"

typedef unsigned long word;
typedef struct { word bits[CPUS / WORD_BITS]; } cpu_mask;
typedef struct { word bits[NODES / WORD_BITS]; } node_mask;

static int has(const word *mask, size_t i) { return mask[i / WORD_BITS] >> (i % WORD_BITS) & 1; }
static void add(word *mask, size_t i) { mask[i / WORD_BITS] |= 1UL << (i % WORD_BITS); }

/* glibc's syscall() is the one that is replaced below, so this one cannot use it. */
static long kernel(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    if (result < 0 && result > -4096) {
        errno = -result;
        return -1;
    }
    return result;
}

static void read_list(const char *path, word *mask, size_t count)
{
    char text[65536], *next = text;
    FILE *file = fopen(path, "r");
    size_t length;

    if (!file)
        return;
    length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    while (*next >= '0' && *next <= '9') {
        size_t first = strtoul(next, &next, 10), last = first;
        if (*next == '-')
            last = strtoul(next + 1, &next, 10);
        for (; first <= last && first < count; first++)
            add(mask, first);
        if (*next == ',')
            next++;
    }
}

static void write_list(char *out, size_t size, const word *mask, size_t count)
{
    size_t used = 0;

    out[0] = 0;
    for (size_t first = 0; first < count && used + 32 < size; first++) {
        size_t last = first;
        if (!has(mask, first))
            continue;
        while (last + 1 < count && has(mask, last + 1))
            last++;
        used += snprintf(out + used, size - used, first == last ? "%s%zu" : "%s%zu-%zu",
                         used ? "," : "", first, last);
        first = last;
    }
}

static void note(const char *call, long target, long mode, const word *wanted, size_t count)
{
    char list[8192], line[9000];
    FILE *file;

    write_list(list, sizeof list, wanted, count);
    snprintf(line, sizeof line,
             "{\"program\":\"%s\",\"pid\":%d,\"call\":\"%s\",\"target\":%ld,\"mode\":%ld,\"wanted\":\"%s\"}\n",
             program_invocation_short_name, getpid(), call, target, mode, list);
    if ((file = fopen(LOG, "a"))) {
        fputs(line, file);
        fclose(file);
    }
}

/* What each thread asked for, so that it can be told so. */
static struct request {
    struct request *next;
    pid_t thread;
    cpu_mask wanted;
} *requests;
static pthread_mutex_t requests_lock = PTHREAD_MUTEX_INITIALIZER;

static size_t machine_cpus(size_t *ids)
{
    cpu_mask mask = {{0}};
    size_t count = 0;

    /* The first process of the namespace still has the whole machine. */
    if (kernel(SYS_sched_getaffinity, 1, sizeof mask, (long)&mask, 0, 0, 0) < 0)
        kernel(SYS_sched_getaffinity, 0, sizeof mask, (long)&mask, 0, 0, 0);
    for (size_t i = 0; i < CPUS; i++)
        if (has(mask.bits, i))
            ids[count++] = i;
    return count;
}

int sched_setaffinity(pid_t thread, size_t size, const cpu_set_t *set)
{
    cpu_mask wanted = {{0}}, online = {{0}}, here = {{0}};
    size_t ids[CPUS], count = machine_cpus(ids), found = 0;
    struct request *request;

    memcpy(&wanted, set, size < sizeof wanted ? size : sizeof wanted);
    read_list("/sys/devices/system/cpu/online", online.bits, CPUS);
    for (size_t i = 0; i < CPUS; i++) {
        if (!has(wanted.bits, i) || !has(online.bits, i))
            continue;
        found++;
        add(here.bits, ids[i % count]);
    }
    if (!found) {
        note("sched_setaffinity refused", thread, 0, wanted.bits, CPUS);
        errno = EINVAL;
        return -1;
    }
    if (kernel(SYS_sched_setaffinity, thread, sizeof here, (long)&here, 0, 0, 0) < 0)
        return -1;
    note("sched_setaffinity", thread, 0, wanted.bits, CPUS);
    pthread_mutex_lock(&requests_lock);
    for (request = requests; request && request->thread != thread; request = request->next)
        ;
    if (!request && (request = calloc(1, sizeof *request))) {
        request->thread = thread;
        request->next = requests;
        requests = request;
    }
    for (size_t i = 0; request && i < CPUS / WORD_BITS; i++)
        request->wanted.bits[i] = wanted.bits[i] & online.bits[i];
    pthread_mutex_unlock(&requests_lock);
    return 0;
}

#ifdef __x86_64__
/* Also for a host with a glibc before 2.34, where it was not in libc itself. */
__asm__(".symver dlsym,dlsym@GLIBC_2.2.5");
#endif

/* How QEMU places the threads that fill hugepages (thread-context, 7.2): by another way to the kernel. */
int pthread_setaffinity_np(pthread_t thread, size_t size, const cpu_set_t *set)
{
    int (*real)(pthread_t, size_t, const cpu_set_t *);
    cpu_mask wanted = {{0}}, here = {{0}};
    size_t ids[CPUS], count = machine_cpus(ids);

    *(void **)&real = dlsym(RTLD_NEXT, "pthread_setaffinity_np");
    memcpy(&wanted, set, size < sizeof wanted ? size : sizeof wanted);
    for (size_t i = 0; i < CPUS; i++)
        if (has(wanted.bits, i))
            add(here.bits, ids[i % count]);
    return real(thread, sizeof here, (const cpu_set_t *)&here);
}

static long get_affinity(pid_t thread, size_t size, void *out)
{
    cpu_mask mask = {{0}};
    size_t length = size < sizeof mask ? size : sizeof mask;

    if (kernel(SYS_sched_getaffinity, thread, sizeof mask, (long)&mask, 0, 0, 0) < 0)
        return -1;
    pthread_mutex_lock(&requests_lock);
    for (struct request *one = requests; one && thread; one = one->next)
        if (one->thread == thread)
            mask = one->wanted;
    pthread_mutex_unlock(&requests_lock);
    memcpy(out, &mask, length);
    return length;
}

int sched_getaffinity(pid_t thread, size_t size, cpu_set_t *out)
{
    memset(out, 0, size);
    return get_affinity(thread, size, out) < 0 ? -1 : 0;
}

/* Returns 1 with *here set where the mask names nodes, 0 where it names none, -1 on EINVAL. */
static int translate(const char *call, long mode, const word *mask, size_t count, node_mask *here)
{
    node_mask wanted = {{0}}, online = {{0}};
    int any = 0;

    for (size_t i = 0; mask && i + 1 < count && i < NODES; i++)
        if (has(mask, i))
            add(wanted.bits, i);
    read_list("/sys/devices/system/node/online", online.bits, NODES);
    for (size_t i = 0; i < NODES; i++) {
        if (!has(wanted.bits, i))
            continue;
        if (!has(online.bits, i)) {
            note("unknown node refused", 0, mode, wanted.bits, NODES);
            errno = EINVAL;
            return -1;
        }
        any = 1;
    }
    if (any) {
        add(here->bits, 0);
        note(call, 0, mode, wanted.bits, NODES);
    }
    return any;
}

long syscall(long number, ...)
{
    node_mask here = {{0}};
    va_list list;
    long a, b, c, d, e, f;
    int any;

    va_start(list, number);
    a = va_arg(list, long);
    b = va_arg(list, long);
    c = va_arg(list, long);
    d = va_arg(list, long);
    e = va_arg(list, long);
    f = va_arg(list, long);
    va_end(list);
    switch (number) {
    case SYS_sched_getaffinity: /* thread, size, mask: libnuma sizes its maps by the answer */
        return get_affinity(a, b, (void *)c);
    case SYS_mbind: /* address, length, mode, mask, bits, flags */
        if ((any = translate("mbind", c, (const word *)d, e, &here)) < 0)
            return -1;
        if (any)
            return kernel(number, a, b, c, (long)&here, NODES + 1, f);
        break;
    case SYS_set_mempolicy: /* mode, mask, bits */
        if ((any = translate("set_mempolicy", a, (const word *)b, c, &here)) < 0)
            return -1;
        if (any)
            return kernel(number, a, (long)&here, NODES + 1, 0, 0, 0);
        break;
    case SYS_migrate_pages: /* there is one node to migrate to: the one they are on */
        return 0;
    }
    return kernel(number, a, b, c, d, e, f);
}
