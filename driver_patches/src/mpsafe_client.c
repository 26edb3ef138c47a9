/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#include "mpsafe_core_private.h"

static mpsafe_core_client_t **bucket(mpsafe_core_t *core, const void *key)
{
    __u64 hash = (__u64)(uintptr_t)key * 0x9e3779b97f4a7c15ULL; // 2^64 over the golden ratio

    return &core->buckets[hash >> (64 - MPSAFE_BUCKETS_BITS)];
}

static mpsafe_core_client_t *find_by_key(mpsafe_core_t *core, const void *key)
{
    mpsafe_core_client_t *client = *bucket(core, key);

    while (client && client->key != key)
        client = client->chain;
    return client;
}

mpsafe_core_client_t *mpsafe_core_client_find(mpsafe_core_t *core, __u64 id)
{
    mpsafe_core_client_t *client = core->first;

    while (client && client->id < id)
        client = client->next;
    return client && client->id == id ? client : NULL;
}

static void link_client(mpsafe_core_t *core, mpsafe_core_client_t *client)
{
    mpsafe_core_client_t **chain = bucket(core, client->key);

    client->chain = *chain;
    *chain = client;

    client->previous = core->last;
    *(core->last ? &core->last->next : &core->first) = client;
    core->last = client;
    core->stats.clients++;
}

static void unlink_client(mpsafe_core_t *core, mpsafe_core_client_t *client)
{
    mpsafe_core_client_t **chain = bucket(core, client->key);

    while (*chain != client)
        chain = &(*chain)->chain;
    *chain = client->chain;

    *(client->previous ? &client->previous->next : &core->first) = client->next;
    *(client->next ? &client->next->previous : &core->last) = client->previous;
    core->stats.clients--;
}

static void free_client(mpsafe_core_t *core, mpsafe_core_client_t *client)
{
    if (client->process)
        core->config.ops->put_process(core->config.context, client->process);
    mpsafe_mutex_deinit(&client->lock);
    mpsafe_free(client->made);
    mpsafe_free(client);
}

int mpsafe_core_client_create(mpsafe_core_t *core,
                              const void *key,
                              const mpsafe_identity_t *who,
                              void *process,
                              __u64 now)
{
    mpsafe_core_client_t *client = mpsafe_alloc(sizeof(*client));
    bool known;

    if (!client) {
        if (process)
            core->config.ops->put_process(core->config.context, process);
        return -ENOMEM;
    }
    client->core = core;
    client->key = key;
    client->process = process;
    client->who = *who;
    memset(client->who.comm, 0, sizeof(client->who.comm));
    memcpy(client->who.comm, who->comm, strnlen(who->comm, sizeof(who->comm) - 1));
    client->references = 1;
    client->state = MPSAFE_CLIENT_LIVE;
    client->mode = MPSAFE_MODE_INHERIT;
    mpsafe_mutex_init(&client->lock);

    mpsafe_core_enter(core, now);
    known = find_by_key(core, key) != NULL;
    if (!known) {
        client->id = ++core->last_id;
        client->created_ns = core->now;
        link_client(core, client);
    }
    mpsafe_core_leave(core);

    if (known)
        free_client(core, client);
    return known ? -EEXIST : 0;
}

void mpsafe_core_client_destroy(mpsafe_core_t *core, const void *key, __u64 now)
{
    mpsafe_core_client_t *client = mpsafe_core_client_get(core, key);
    bool left = false;

    if (!client)
        return;

    // Waits for a fault between its begin and its end.
    mpsafe_mutex_lock(&client->lock);
    mpsafe_core_enter(core, now);
    if (!client->gone) {
        left = client->sinks > 0;
        core->stats.sinks -= client->sinks;
        client->gone = true;
        unlink_client(core, client);
        client->references--;
        if (client->state != MPSAFE_CLIENT_LIVE) {
            struct mpsafe_record record = {.type = MPSAFE_RECORD_GONE};

            mpsafe_store(&core->doomed, core->doomed - 1);
            mpsafe_core_record(core, client, &record);
        }
    }
    mpsafe_core_leave(core);
    mpsafe_mutex_unlock(&client->lock);
    mpsafe_warn_on(left);
    mpsafe_core_client_put(client);
}

mpsafe_core_client_t *mpsafe_core_client_get(mpsafe_core_t *core, const void *key)
{
    mpsafe_core_client_t *client;

    mpsafe_spin_lock(&core->lock);
    client = find_by_key(core, key);
    if (client)
        client->references++;
    mpsafe_spin_unlock(&core->lock);
    return client;
}

mpsafe_core_client_t *mpsafe_core_client_get_by_id(mpsafe_core_t *core, __u64 id)
{
    mpsafe_core_client_t *client;

    mpsafe_spin_lock(&core->lock);
    client = mpsafe_core_client_find(core, id);
    if (client)
        client->references++;
    mpsafe_spin_unlock(&core->lock);
    return client;
}

const void *mpsafe_core_client_key(const mpsafe_core_client_t *client)
{
    return client->key;
}

void mpsafe_core_client_put(mpsafe_core_client_t *client)
{
    mpsafe_core_t *core = client->core;
    bool last;

    mpsafe_spin_lock(&core->lock);
    last = --client->references == 0;
    mpsafe_spin_unlock(&core->lock);
    if (last)
        free_client(core, client);
}

bool mpsafe_core_any_doomed(const mpsafe_core_t *core)
{
    return mpsafe_load(&core->doomed) > 0;
}

bool mpsafe_core_refuses(mpsafe_core_t *core, mpsafe_core_client_t *client)
{
    bool refuses;

    mpsafe_spin_lock(&core->lock);
    refuses = client->state != MPSAFE_CLIENT_LIVE;
    if (refuses) {
        client->refused++;
        core->stats.refused++;
    }
    mpsafe_spin_unlock(&core->lock);
    return refuses;
}

__u64 mpsafe_core_hold(mpsafe_core_t *core, mpsafe_core_client_t *client, __u64 now)
{
    __u64 left_ns = 0;

    mpsafe_core_enter(core, now);
    if (client->state == MPSAFE_CLIENT_DOOMED) {
        if (!client->holds) {
            __u64 until_ns = mpsafe_core_deadline(core, core->limits.hold_ms);

            client->holds = true;
            if (client->hold_ns < until_ns)
                client->hold_ns = until_ns;
        }
        if (client->hold_ns > core->now)
            left_ns = client->hold_ns - core->now;
    }
    mpsafe_core_leave(core);
    return left_ns;
}
