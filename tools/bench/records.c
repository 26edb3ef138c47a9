/* SPDX-License-Identifier: Apache-2.0 */
/*
 * records COUNT: how many records a second go through the core's ring, from a fault to the owner's read, in bursts of
 * one thread; and, beside it, the same bytes through a ring that has one lock and nothing else, and through a pipe.
 * Prints "NAME RATE" lines.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "mpsafe_core_private.h"

#define BURST 256
#define RING 16384

static mpsafe_core_t *core;
static mpsafe_core_client_t *client;
static struct mpsafe_record plain[RING];
static pthread_mutex_t plain_lock = PTHREAD_MUTEX_INITIALIZER;
static size_t plain_made, plain_read;
static int ends[2];

static __u64 clock_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (__u64)time.tv_sec * 1000000000 + (__u64)time.tv_nsec;
}

static void ignore(void *context)
{
    (void)context;
}

static bool ring_push(struct mpsafe_record *record)
{
    mpsafe_ring_push(&core->ring, record);
    return true;
}

static bool core_pop(struct mpsafe_record *record)
{
    return mpsafe_core_read(core, record);
}

/* An address that a sink covers already: all of the core's way but making a sink. */
static bool fault_push(struct mpsafe_record *record)
{
    mpsafe_sight_t sight = {.room_end = MPSAFE_SINK_SIZE, .fault = MPSAFE_FAULT_PTE, .unit = MPSAFE_UNIT_SM};
    mpsafe_sink_t sink;
    __u32 status;

    (void)record;
    sight.place = MPSAFE_PLACE_WILD;
    status = mpsafe_core_fault_begin(core, client, &sight, 1, &sink);
    mpsafe_core_fault_end(core, client, &sight, &sink, NULL, status, 1);
    return status == MPSAFE_STATUS_OK;
}

static bool plain_push(struct mpsafe_record *record)
{
    pthread_mutex_lock(&plain_lock);
    plain[plain_made++ % RING] = *record;
    pthread_mutex_unlock(&plain_lock);
    return true;
}

static bool plain_pop(struct mpsafe_record *record)
{
    bool there;

    pthread_mutex_lock(&plain_lock);
    there = plain_read < plain_made;
    if (there)
        *record = plain[plain_read++ % RING];
    pthread_mutex_unlock(&plain_lock);
    return there;
}

static bool pipe_push(struct mpsafe_record *record)
{
    return write(ends[1], record, sizeof(*record)) == sizeof(*record);
}

static bool pipe_pop(struct mpsafe_record *record)
{
    return read(ends[0], record, sizeof(*record)) == sizeof(*record);
}

static void measure(const char *name,
                    bool (*push)(struct mpsafe_record *),
                    bool (*pop)(struct mpsafe_record *),
                    unsigned long records)
{
    struct mpsafe_record record = {.size = sizeof(record)};
    __u64 began = clock_ns();
    unsigned long done;
    int i;

    for (done = 0; done < records; done += BURST) {
        for (i = 0; i < BURST; i++) {
            if (!push(&record))
                exit(1);
        }
        for (i = 0; i < BURST; i++) {
            if (!pop(&record))
                exit(1);
        }
    }
    printf("%s %.0f\n", name, (double)done * 1e9 / (double)(clock_ns() - began));
}

int main(int argc, char **argv)
{
    static const mpsafe_core_ops_t ops = {.wake = ignore};
    static const mpsafe_identity_t who = {.tgid = 1, .comm = "bench"};
    static const __u8 gpu_uuid[16];
    const mpsafe_core_config_t config = {.ring = RING, .driver = "none", .ops = &ops};
    struct mpsafe_policy policy = {
        .mode = MPSAFE_MODE_ABSORB, .places = MPSAFE_PLACES, .units = MPSAFE_UNITS, .sinks_max = 1, .budget_us = 1,
    };
    struct mpsafe_record record;
    unsigned long records = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
    const char *wrong;

    if (records == 0 || pipe(ends) != 0 || mpsafe_core_init(&core, &config) != 0)
        return 2;
    if (mpsafe_core_client_create(core, &who, &who, NULL, 1) != 0 || mpsafe_core_open(core, 1) != 0 ||
        mpsafe_core_request(core, MPSAFE_IOC_POLICY_SET, &policy, 1, &wrong) != 0)
        return 2;
    client = mpsafe_core_client_get(core, &who);
    while (mpsafe_core_read(core, &record))
        continue;

    measure("ring", ring_push, core_pop, records);
    measure("fault", fault_push, core_pop, records);
    measure("plain", plain_push, plain_pop, records);
    measure("pipe", pipe_push, pipe_pop, records);

    mpsafe_core_sinks_drop(core, client, gpu_uuid, NULL, NULL);
    mpsafe_core_client_put(client);
    mpsafe_core_client_destroy(core, &who, 1);
    mpsafe_core_close(core, 1);
    mpsafe_core_deinit(core);
    return 0;
}
