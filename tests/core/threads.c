/* SPDX-License-Identifier: Apache-2.0 */
/*
 * threads MILLISECONDS: bottom halves, processes that come and go, an owner that opens, asks, reads and closes, and the
 * ticker, all at once on one core, for the thread sanitizer. Prints what happened; status 1 if the counts do not agree.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "memory.h"
#include "mpsafe_core.h"

#define KEYS 8

static mpsafe_core_t *core;
static int stop;
static unsigned long made, put, backings, drops, absorbed, records;

static __u64 clock_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (__u64)time.tv_sec * 1000000000 + (__u64)time.tv_nsec;
}

static void count(unsigned long *counter)
{
    __atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

static bool stopped(void)
{
    return __atomic_load_n(&stop, __ATOMIC_RELAXED);
}

static void wake(void *context)
{
    (void)context;
}

static void kill_process(void *context, void *process)
{
    (void)context;
    (void)process;
}

static void put_process(void *context, void *process)
{
    (void)context;
    (void)process;
    count(&put);
}

static void drop(void *context, void *backing)
{
    (void)context;
    free(backing);
    count(&drops);
}

static void fault(mpsafe_core_client_t *client, unsigned int *seed)
{
    mpsafe_sight_t sight = {.room_end = 1ULL << 47, .fault = MPSAFE_FAULT_PTE, .unit = MPSAFE_UNIT_SM};
    mpsafe_sink_t sink;
    void *backing = NULL;
    __u32 status;

    sight.va = (__u64)rand_r(seed) << 16;
    sight.place = MPSAFE_PLACE_WILD;
    status = mpsafe_core_fault_begin(core, client, &sight, clock_ns(), &sink);
    if (status == MPSAFE_STATUS_OK) {
        count(&absorbed);
        if (!sink.made) {
            backing = malloc(1);
            count(&backings);
        }
    }
    mpsafe_core_fault_end(core, client, &sight, &sink, backing, status, clock_ns());
}

static void *bottom_half(void *seed)
{
    unsigned int random = (unsigned int)(uintptr_t)seed;

    while (!stopped()) {
        mpsafe_core_client_t *client = mpsafe_core_client_get(core, (void *)(uintptr_t)(rand_r(&random) % KEYS + 1));

        if (!client)
            continue;
        fault(client, &random);
        if (mpsafe_core_any_doomed(core))
            (void)mpsafe_core_refuses(core, client);
        mpsafe_core_client_put(client);
    }
    return NULL;
}

/* As the driver does it, faults of a client have ended before it goes: each process has its own keys and faults. */
static void *process(void *first)
{
    static const mpsafe_identity_t who = {.tgid = 1, .comm = "threads"};
    static const __u8 gpu_uuid[16];
    unsigned int random = (unsigned int)(uintptr_t)first;

    while (!stopped()) {
        const void *key = (void *)((uintptr_t)first + KEYS);
        mpsafe_core_client_t *client;
        int faults;

        if (mpsafe_core_client_create(core, key, &who, (void *)key, clock_ns()) != 0)
            abort();
        count(&made);
        client = mpsafe_core_client_get(core, key);
        for (faults = rand_r(&random) % 30; faults > 0; faults--)
            fault(client, &random);
        (void)mpsafe_core_hold(core, client, clock_ns());
        mpsafe_core_sinks_drop(core, client, gpu_uuid, drop, NULL);
        mpsafe_core_client_destroy(core, key, clock_ns());
        mpsafe_core_client_put(client);
    }
    return NULL;
}

static void answer_all(void)
{
    struct mpsafe_client seen = {0};
    const char *wrong;

    while (mpsafe_core_request(core, MPSAFE_IOC_CLIENT_NEXT, &seen, clock_ns(), &wrong) == 0) {
        struct mpsafe_answer answer = {.client = seen.client, .action = (__u32)(seen.client % 3 + 1)};

        answer.ms = answer.action == MPSAFE_ANSWER_EXTEND ? 1 : 0;
        (void)mpsafe_core_request(core, MPSAFE_IOC_ANSWER, &answer, clock_ns(), &wrong);
    }
}

static void *owner(void *unused)
{
    struct mpsafe_policy policy = {
        .mode = MPSAFE_MODE_ABSORB, .places = 2, .units = 2, .sinks_max = 100, .budget_us = 60000000,
        .grow_after = {4, 8}, .hold_ms = 1, .kill_ms = 1,
    };
    struct mpsafe_record record;
    struct mpsafe_stats stats;
    const char *wrong;

    while (!stopped()) {
        __u64 last = 0;

        if (mpsafe_core_open(core, clock_ns()) != 0)
            abort();
        if (mpsafe_core_request(core, MPSAFE_IOC_POLICY_SET, &policy, clock_ns(), &wrong) != 0)
            abort();
        while (last < 20000 && !stopped() && mpsafe_core_readable(core) && mpsafe_core_read(core, &record)) {
            if (record.seq <= last || record.size != sizeof(record))
                abort();
            last = record.seq;
            count(&records);
        }
        answer_all();
        (void)mpsafe_core_request(core, MPSAFE_IOC_STATS, &stats, clock_ns(), &wrong);
        mpsafe_core_close(core, clock_ns());
    }
    return unused;
}

static void *ticker(void *unused)
{
    while (!stopped())
        (void)mpsafe_core_tick(core, clock_ns());
    return unused;
}

static void end_of(__u64 key)
{
    static const __u8 gpu_uuid[16];
    mpsafe_core_client_t *client = mpsafe_core_client_get(core, (void *)(uintptr_t)key);

    mpsafe_core_sinks_drop(core, client, gpu_uuid, drop, NULL);
    mpsafe_core_client_put(client);
    mpsafe_core_client_destroy(core, (void *)(uintptr_t)key, clock_ns());
}

int main(int argc, char **argv)
{
    static const mpsafe_core_ops_t ops = {wake, kill_process, put_process, NULL};
    static const mpsafe_identity_t who = {.tgid = 1, .comm = "threads"};
    const mpsafe_core_config_t config = {.load = 1, .ring = 64, .driver = "none", .ops = &ops};
    void *(*const bodies[])(void *) = {bottom_half, bottom_half, process, process, owner, ticker};
    pthread_t threads[sizeof(bodies) / sizeof(bodies[0])];
    struct mpsafe_stats stats = {0};
    struct timespec lasts;
    const char *wrong;
    __u64 key;
    size_t i;
    long ms = argc == 2 ? atol(argv[1]) : 0;

    if (ms <= 0 || mpsafe_core_init(&core, &config) != 0)
        return 2;
    for (key = 1; key <= KEYS; key++)
        made += mpsafe_core_client_create(core, (void *)(uintptr_t)key, &who, (void *)(uintptr_t)key, clock_ns()) == 0;
    for (i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++)
        pthread_create(&threads[i], NULL, bodies[i], (void *)(uintptr_t)(i + 1));

    lasts.tv_sec = ms / 1000;
    lasts.tv_nsec = ms % 1000 * 1000000;
    nanosleep(&lasts, NULL);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++)
        pthread_join(threads[i], NULL);

    for (key = 1; key <= KEYS; key++)
        end_of(key);
    if (mpsafe_core_open(core, clock_ns()) != 0 ||
        mpsafe_core_request(core, MPSAFE_IOC_STATS, &stats, clock_ns(), &wrong) != 0)
        return 1;
    mpsafe_core_close(core, clock_ns());
    mpsafe_core_deinit(core);
    printf("clients %lu, absorbed %llu, passed %llu, records %llu, read %lu, killed %llu, refused %llu\n", made,
           stats.absorbed, stats.passed, stats.records, records, stats.killed, stats.refused);
    return made != put || backings != drops || absorbed != stats.absorbed || stats.clients || stats.doomed ||
           stats.sinks || mpsafe_memory_live() != 0;
}
