/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#include "mpsafe_core_private.h"

// What holds until an owner sets a policy, and again once it has closed the device.
static const struct mpsafe_policy default_policy = {
    .mode = MPSAFE_MODE_OFF,
    .places = MPSAFE_PLACES,
    .units = MPSAFE_UNITS,
    .sinks_max = 1024,
    .budget_us = 2000000,
    .grow_after = {8, 64},
    .hold_ms = 2000,
    .kill_ms = 0,
};

int mpsafe_core_init(mpsafe_core_t **core, const mpsafe_core_config_t *config)
{
    mpsafe_core_t *made = mpsafe_alloc(sizeof(*made));
    int result;

    if (!made)
        return -ENOMEM;

    result = mpsafe_ring_init(&made->ring, config->ring);
    if (result != 0) {
        mpsafe_free(made);
        return result;
    }
    made->config = *config;
    made->policy = default_policy;
    made->limits = default_policy;
    mpsafe_spin_init(&made->lock);
    *core = made;
    return 0;
}

void mpsafe_core_deinit(mpsafe_core_t *core)
{
    mpsafe_warn_on(core->first || core->owned);
    mpsafe_spin_deinit(&core->lock);
    mpsafe_ring_deinit(&core->ring);
    mpsafe_free(core);
}

void mpsafe_core_enter(mpsafe_core_t *core, __u64 now)
{
    mpsafe_spin_lock(&core->lock);
    if (core->now < now)
        core->now = now;
    mpsafe_core_settle(core);
}

void mpsafe_core_leave(mpsafe_core_t *core)
{
    bool changed = core->changed;

    core->changed = false;
    mpsafe_spin_unlock(&core->lock);
    if (changed)
        core->config.ops->wake(core->config.context);
}

static __u64 later(__u64 time_ns, __u32 ms)
{
    __u64 span_ns = ms * MPSAFE_NS_PER_MS;

    return time_ns > ~0ULL - span_ns ? ~0ULL : time_ns + span_ns;
}

__u64 mpsafe_core_deadline(const mpsafe_core_t *core, __u32 ms)
{
    return later(core->now, ms);
}

static bool heart_beats(const mpsafe_core_t *core)
{
    return core->now <= later(core->heartbeat_ns, MPSAFE_HEARTBEAT_MS);
}

void mpsafe_core_settle(mpsafe_core_t *core)
{
    __u16 mode = core->owned && heart_beats(core) ? core->policy.mode : MPSAFE_MODE_OFF;

    if (mode == core->in_force)
        return;
    if (core->owned && mode != core->policy.mode)
        core->stats.expired++;
    core->in_force = mode;
    mpsafe_core_record_policy(core);
}

void mpsafe_core_record(mpsafe_core_t *core, const mpsafe_core_client_t *client, struct mpsafe_record *record)
{
    record->size = sizeof(*record);
    record->mode = core->in_force;
    record->load = core->config.load;
    record->time_ns = core->now;
    if (client) {
        record->client = client->id;
        record->tgid = client->who.tgid;
        record->uid = client->who.uid;
        record->start_ticks = client->who.start_ticks;
        record->faults = client->faults;
        memcpy(record->comm, client->who.comm, sizeof(record->comm));
    }
    mpsafe_ring_push(&core->ring, record);
    core->changed = true;
}

void mpsafe_core_record_policy(mpsafe_core_t *core)
{
    struct mpsafe_record record = {.type = MPSAFE_RECORD_POLICY};

    mpsafe_core_record(core, NULL, &record);
}

int mpsafe_core_open(mpsafe_core_t *core, __u64 now)
{
    int result = -EBUSY;

    mpsafe_core_enter(core, now);
    if (!core->owned) {
        core->owned = true;
        core->heartbeat_ns = core->now;
        mpsafe_ring_rewind(&core->ring);
        result = 0;
    }
    mpsafe_core_leave(core);
    return result;
}

void mpsafe_core_close(mpsafe_core_t *core, __u64 now)
{
    mpsafe_core_client_t *client;

    mpsafe_core_enter(core, now);
    core->owned = false;
    core->policy = default_policy;
    for (client = core->first; client; client = client->next)
        client->mode = MPSAFE_MODE_INHERIT;
    mpsafe_core_settle(core);
    mpsafe_core_leave(core);
}

bool mpsafe_core_read(mpsafe_core_t *core, struct mpsafe_record *record)
{
    return mpsafe_ring_read(&core->ring, record);
}

bool mpsafe_core_readable(mpsafe_core_t *core)
{
    return mpsafe_ring_readable(&core->ring);
}

void mpsafe_core_rewind(mpsafe_core_t *core)
{
    mpsafe_ring_rewind(&core->ring);
}

// Takes one client off whose time is up, with a reference, or finds out when the next one's is.
static mpsafe_core_client_t *overdue(mpsafe_core_t *core, __u64 *next)
{
    mpsafe_core_client_t *client = core->doomed ? core->first : NULL;

    for (; client; client = client->next) {
        struct mpsafe_record record = {.type = MPSAFE_RECORD_KILLED};

        if (client->kill_ns == 0)
            continue;
        if (client->kill_ns > core->now) {
            if (*next == 0 || client->kill_ns < *next)
                *next = client->kill_ns;
            continue;
        }
        client->kill_ns = 0;
        client->references++;
        core->stats.killed++;
        mpsafe_core_record(core, client, &record);
        return client;
    }
    return NULL;
}

__u64 mpsafe_core_tick(mpsafe_core_t *core, __u64 now)
{
    mpsafe_core_client_t *client;
    __u64 next;

    do {
        mpsafe_core_enter(core, now);
        next = 0;
        if (core->in_force != MPSAFE_MODE_OFF)
            next = later(core->heartbeat_ns, MPSAFE_HEARTBEAT_MS) + 1;
        client = overdue(core, &next);
        mpsafe_core_leave(core);
        if (client) {
            core->config.ops->kill(core->config.context, client->process);
            mpsafe_core_client_put(client);
        }
    } while (client);
    return next;
}
