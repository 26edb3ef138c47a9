/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#include "mpsafe_core_private.h"

// The first of the client's sinks that ends behind `va` on this GPU, or where it would be.
static __u32 sink_at(const mpsafe_core_client_t *client, const __u8 gpu_uuid[16], __u64 va)
{
    __u32 low = 0;
    __u32 high = client->sinks;

    while (low < high) {
        __u32 middle = low + (high - low) / 2;
        const mpsafe_made_t *made = &client->made[middle];
        int order = memcmp(made->gpu_uuid, gpu_uuid, sizeof(made->gpu_uuid));

        if (order < 0 || (order == 0 && made->base + (made->size - 1) < va))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static const mpsafe_made_t *neighbour(const mpsafe_core_client_t *client, const __u8 gpu_uuid[16], __u32 index)
{
    const mpsafe_made_t *made = index < client->sinks ? &client->made[index] : NULL;

    return made && memcmp(made->gpu_uuid, gpu_uuid, sizeof(made->gpu_uuid)) == 0 ? made : NULL;
}

// The sink that covers `va`, or the largest one of the grown size around it that fits. False where there is no room.
static bool choose_sink(const mpsafe_core_client_t *client,
                        const mpsafe_sight_t *sight,
                        const __u32 grow_after[2],
                        mpsafe_sink_t *sink)
{
    __u32 index = sink_at(client, sight->gpu_uuid, sight->va);
    const mpsafe_made_t *after = neighbour(client, sight->gpu_uuid, index);
    const mpsafe_made_t *before = index > 0 ? neighbour(client, sight->gpu_uuid, index - 1) : NULL;
    __u64 slot = sight->va & ~(MPSAFE_SINK_SIZE - 1);
    __u64 size = MPSAFE_SINK_SIZE;
    __u64 start = sight->room_start;
    __u64 end = sight->room_end;

    if (after && after->base <= sight->va) {
        sink->base = after->base;
        sink->size = after->size;
        sink->made = true;
        return true;
    }

    // All four are multiples of the smallest size, so that a slot is free as a whole or not at all.
    if (before && start < before->base + before->size)
        start = before->base + before->size;
    if (after && end > after->base)
        end = after->base;
    if (slot < start || end <= slot || end - slot < MPSAFE_SINK_SIZE)
        return false;

    if (client->sinks >= grow_after[1])
        size = MPSAFE_SINK_SIZE_STORM;
    else if (client->sinks >= grow_after[0])
        size = MPSAFE_SINK_SIZE_GROWN;

    sink->base = sight->va & ~(size - 1);
    if (end - sink->base > size)
        end = sink->base + size;
    if (sink->base < start)
        sink->base = start;
    sink->size = end - sink->base;
    return true;
}

// Makes room for one more sink, so that what begins well cannot fail for memory at its end.
static bool reserve(mpsafe_core_client_t *client)
{
    __u32 max = client->made_max ? 2 * client->made_max : 16;
    mpsafe_made_t *made;

    if (client->sinks < client->made_max)
        return true;

    made = mpsafe_alloc(max * sizeof(*made));
    if (!made)
        return false;
    if (client->made)
        memcpy(made, client->made, client->sinks * sizeof(*made));
    mpsafe_free(client->made);
    client->made = made;
    client->made_max = max;
    return true;
}

static bool has_class(const mpsafe_sight_t *sight, __u32 places, __u32 units)
{
    bool mappable = sight->fault >= MPSAFE_FAULT_PDE && sight->fault <= MPSAFE_FAULT_RO;

    return mappable && sight->place < 32 && sight->unit < 32 && (places >> sight->place & 1) &&
           (units >> sight->unit & 1);
}

static __u32 judge(mpsafe_core_t *core, mpsafe_core_client_t *client, const mpsafe_sight_t *sight, __u32 grow_after[2])
{
    const struct mpsafe_policy *policy = &core->limits;
    bool doomed = client->state != MPSAFE_CLIENT_LIVE;
    __u16 mode = client->mode < core->in_force ? client->mode : core->in_force;

    client->silent = client->gone || (!doomed && mode == MPSAFE_MODE_OFF);
    if (client->gone || (!doomed && mode != MPSAFE_MODE_ABSORB))
        return MPSAFE_STATUS_STATE;
    if (!has_class(sight, doomed ? MPSAFE_PLACES : policy->places, doomed ? MPSAFE_UNITS : policy->units))
        return MPSAFE_STATUS_NOT_SUPPORTED;
    if (client->spent_ns >= policy->budget_us * MPSAFE_NS_PER_US)
        return MPSAFE_STATUS_LIMIT;

    memcpy(grow_after, policy->grow_after, sizeof(policy->grow_after));
    return MPSAFE_STATUS_OK;
}

__u32 mpsafe_core_fault_begin(mpsafe_core_t *core,
                              mpsafe_core_client_t *client,
                              const mpsafe_sight_t *sight,
                              __u64 now,
                              mpsafe_sink_t *sink)
{
    __u32 grow_after[2];
    __u32 sinks_max;

    memset(sink, 0, sizeof(*sink));
    mpsafe_mutex_lock(&client->lock);
    client->began_ns = now;

    mpsafe_core_enter(core, now);
    client->verdict = judge(core, client, sight, grow_after);
    sinks_max = core->limits.sinks_max;
    mpsafe_core_leave(core);

    if (client->verdict != MPSAFE_STATUS_OK)
        return client->verdict;

    if (!choose_sink(client, sight, grow_after, sink))
        client->verdict = MPSAFE_STATUS_NOT_SUPPORTED;
    else if (!sink->made && client->sinks >= sinks_max)
        client->verdict = MPSAFE_STATUS_LIMIT;
    else if (!sink->made && !reserve(client))
        client->verdict = MPSAFE_STATUS_NO_MEMORY;
    return client->verdict;
}

static void insert(mpsafe_core_t *core,
                   mpsafe_core_client_t *client,
                   const mpsafe_sight_t *sight,
                   const mpsafe_sink_t *sink,
                   void *backing)
{
    __u32 index = sink_at(client, sight->gpu_uuid, sink->base);
    mpsafe_made_t *made = &client->made[index];

    memmove(made + 1, made, (client->sinks - index) * sizeof(*made));
    memcpy(made->gpu_uuid, sight->gpu_uuid, sizeof(made->gpu_uuid));
    made->base = sink->base;
    made->size = sink->size;
    made->backing = backing;
    client->sinks++;
    client->sink_bytes += sink->size;
    core->stats.sinks++;
}

static void doom(mpsafe_core_t *core, mpsafe_core_client_t *client)
{
    client->state = MPSAFE_CLIENT_DOOMED;
    client->doomed_ns = core->now;
    if (core->limits.kill_ms && client->process)
        client->kill_ns = mpsafe_core_deadline(core, core->limits.kill_ms);
    mpsafe_store(&core->doomed, core->doomed + 1);
}

static struct mpsafe_record describe(const mpsafe_sight_t *sight, __u16 type, __u32 status)
{
    struct mpsafe_record record = {
        .type = type,
        .va = sight->va,
        .access = sight->access,
        .fault = sight->fault,
        .status = status,
        .place = sight->place,
        .unit = sight->unit,
        .veid = sight->veid,
        .gpc = sight->gpc,
    };

    memcpy(record.gpu_uuid, sight->gpu_uuid, sizeof(record.gpu_uuid));
    return record;
}

static void account(mpsafe_core_t *core,
                    mpsafe_core_client_t *client,
                    const mpsafe_sight_t *sight,
                    const mpsafe_sink_t *sink,
                    __u32 status,
                    __u64 latency_ns)
{
    bool absorbed = status == MPSAFE_STATUS_OK;
    struct mpsafe_record record = describe(sight, absorbed ? MPSAFE_RECORD_ABSORBED : MPSAFE_RECORD_PASSED, status);

    record.latency_ns = latency_ns > ~0u ? ~0u : (__u32)latency_ns;
    client->faults++;
    client->spent_ns = latency_ns > ~0ULL - client->spent_ns ? ~0ULL : client->spent_ns + latency_ns;
    if (absorbed) {
        record.sink_base = sink->base;
        record.sink_size = sink->size;
        core->stats.absorbed++;
        if (core->stats.latency_max_ns < latency_ns)
            core->stats.latency_max_ns = latency_ns;
        if (client->state == MPSAFE_CLIENT_LIVE)
            doom(core, client);
    } else {
        core->stats.passed++;
    }
    mpsafe_core_record(core, client, &record);
}

void mpsafe_core_fault_end(mpsafe_core_t *core,
                           mpsafe_core_client_t *client,
                           const mpsafe_sight_t *sight,
                           const mpsafe_sink_t *sink,
                           void *backing,
                           __u32 status,
                           __u64 now)
{
    __u64 latency_ns = now > client->began_ns ? now - client->began_ns : 0;

    if (client->verdict != MPSAFE_STATUS_OK)
        status = client->verdict;

    mpsafe_core_enter(core, now);
    if (status == MPSAFE_STATUS_OK && !sink->made)
        insert(core, client, sight, sink, backing);
    if (!client->silent)
        account(core, client, sight, sink, status, latency_ns);
    mpsafe_core_leave(core);
    mpsafe_mutex_unlock(&client->lock);
}

void mpsafe_core_sinks_drop(mpsafe_core_t *core,
                            mpsafe_core_client_t *client,
                            const __u8 gpu_uuid[16],
                            void (*drop)(void *context, void *backing),
                            void *context)
{
    __u64 bytes = 0;
    __u32 first;
    __u32 end;

    mpsafe_mutex_lock(&client->lock);
    first = sink_at(client, gpu_uuid, 0);
    for (end = first; neighbour(client, gpu_uuid, end); end++) {
        bytes += client->made[end].size;
        if (client->made[end].backing)
            drop(context, client->made[end].backing);
    }

    mpsafe_spin_lock(&core->lock);
    if (first < end)
        memmove(&client->made[first], &client->made[end], (client->sinks - end) * sizeof(*client->made));
    client->sinks -= end - first;
    client->sink_bytes -= bytes;
    core->stats.sinks -= end - first;
    mpsafe_spin_unlock(&core->lock);
    mpsafe_mutex_unlock(&client->lock);
}

void mpsafe_core_orphan(mpsafe_core_t *core, const mpsafe_sight_t *sight, __u64 now)
{
    struct mpsafe_record record = describe(sight, MPSAFE_RECORD_ORPHAN, MPSAFE_STATUS_NOT_SUPPORTED);

    mpsafe_core_enter(core, now);
    if (core->in_force != MPSAFE_MODE_OFF) {
        core->stats.orphans++;
        mpsafe_core_record(core, NULL, &record);
    }
    mpsafe_core_leave(core);
}
