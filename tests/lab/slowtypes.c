/* Copyright (c) 2026, The kvm.vnuma authors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Preload shim for the libvirt daemon of a fake host: the race for libxml2's schema types, slow
 * enough to be met every time. It adds pauses and nothing else; what comes of it is libxml2's own.
 *
 * The first schema that a process reads fills libxml2's table of types (xmlSchemaInitTypes,
 * xmlschemastypes.c). Before libxml2 2.15 no lock guards that: a thread that comes meanwhile begins
 * an empty table, and the first one, done with its own, looks its types up there. It takes
 * microseconds. Here the first thread pauses when its table is nearly full, and whoever fills one
 * meanwhile pauses at each type.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* sizeof(xmlSchemaType), libxml/schemasInternals.h: public, so it holds for every libxml2.so.2 on
 * machines of 64 bits. Little else has that size. */
#define TYPE_BYTES 224
/* Of the 46 types of a table. */
#define BEGUN 8
#define NEARLY_FULL 40
#define FULL 46
#define PAUSE_US 1000000
#define STEP_US 300000

enum { EMPTY, FILLING, FILLED };

typedef int setup(void (*)(void *), void *(*)(size_t), void *(*)(void *, size_t),
                  char *(*)(const char *));

static atomic_int table = EMPTY;
static __thread int is_first, types;

static void *allocate(size_t size)
{
    int empty = EMPTY;

    if (size != TYPE_BYTES)
        return malloc(size);
    types++;
    if (types == BEGUN)
        is_first = atomic_compare_exchange_strong(&table, &empty, FILLING);
    if (is_first && types == NEARLY_FULL)
        usleep(PAUSE_US);
    if (is_first && types == FULL)
        atomic_store(&table, FILLED);
    if (!is_first && atomic_load(&table) == FILLING)
        usleep(STEP_US);
    return malloc(size);
}

__attribute__((constructor)) static void begin(void)
{
    setup *found = (setup *)dlsym(RTLD_DEFAULT, "xmlMemSetup");

    if (found)
        found(free, allocate, realloc, strdup);
}
