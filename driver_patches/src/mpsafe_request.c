/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#include "mpsafe_core_private.h"

#define MPSAFE_BUDGET_US_MAX 60000000u
#define MPSAFE_HOLD_MS_MAX 60000u
#define MPSAFE_KILL_MS_MAX 600000u
#define MPSAFE_EXTEND_MS_MAX 600000u

static int refuse(const char **wrong, const char *field, int result)
{
    *wrong = field;
    return result;
}

static bool is_zero(const void *memory, size_t size)
{
    const __u8 *bytes = memory;

    while (size > 0 && bytes[size - 1] == 0)
        size--;
    return size == 0;
}

#define IS_RESERVED(payload) is_zero(&(payload)->reserved, sizeof((payload)->reserved))

static void hello_answer(const mpsafe_core_t *core, struct mpsafe_hello *hello)
{
    const char *driver = core->config.driver;

    memset(hello, 0, sizeof(*hello));
    hello->size = sizeof(*hello);
    hello->abi = MPSAFE_ABI;
    hello->load = core->config.load;
    hello->loaded_ns = core->config.loaded_ns;
    hello->features = core->config.features;
    hello->ring = core->config.ring;
    hello->record_size = sizeof(struct mpsafe_record);
    memcpy(hello->driver, driver, strnlen(driver, sizeof(hello->driver) - 1));
}

static int request_hello(mpsafe_core_t *core, struct mpsafe_hello *hello, const char **wrong)
{
    if (hello->size != sizeof(*hello))
        return refuse(wrong, "size", -EINVAL);
    if (!IS_RESERVED(hello))
        return refuse(wrong, "reserved", -EINVAL);
    if (hello->abi != MPSAFE_ABI) {
        hello->abi = MPSAFE_ABI;
        return refuse(wrong, "abi", -EPROTO);
    }
    hello_answer(core, hello);
    return 0;
}

static const char *wrong_in_policy(const struct mpsafe_policy *policy)
{
    if (policy->mode > MPSAFE_MODE_ABSORB)
        return "mode";
    if (policy->in_force != 0)
        return "in_force";
    if (policy->places & ~MPSAFE_PLACES)
        return "places";
    if (policy->units & ~MPSAFE_UNITS)
        return "units";
    if (policy->sinks_max < 1 || policy->sinks_max > MPSAFE_SINKS_MAX)
        return "sinks_max";
    if (policy->budget_us < 1 || policy->budget_us > MPSAFE_BUDGET_US_MAX)
        return "budget_us";
    if (policy->grow_after[0] > policy->grow_after[1])
        return "grow_after";
    if (policy->hold_ms > MPSAFE_HOLD_MS_MAX)
        return "hold_ms";
    if (policy->kill_ms > MPSAFE_KILL_MS_MAX)
        return "kill_ms";
    return IS_RESERVED(policy) ? NULL : "reserved";
}

static int request_policy_set(mpsafe_core_t *core, const struct mpsafe_policy *policy, const char **wrong)
{
    const char *field = wrong_in_policy(policy);

    if (field)
        return refuse(wrong, field, -EINVAL);

    core->policy = *policy;
    core->limits = *policy;
    core->heartbeat_ns = core->now;
    core->in_force = policy->mode;
    mpsafe_core_record_policy(core);
    return 0;
}

static int request_policy_get(const mpsafe_core_t *core, struct mpsafe_policy *policy)
{
    *policy = core->policy;
    policy->in_force = core->in_force;
    return 0;
}

static int request_heartbeat(mpsafe_core_t *core)
{
    core->heartbeat_ns = core->now;
    mpsafe_core_settle(core);
    return 0;
}

static int request_client_next(mpsafe_core_t *core, struct mpsafe_client *seen, const char **wrong)
{
    const mpsafe_core_client_t *client = core->first;

    if (!IS_RESERVED(seen))
        return refuse(wrong, "reserved", -EINVAL);
    while (client && client->id <= seen->client)
        client = client->next;
    if (!client)
        return -ENOENT;

    memset(seen, 0, sizeof(*seen));
    seen->client = client->id;
    seen->tgid = client->who.tgid;
    seen->uid = client->who.uid;
    seen->start_ticks = client->who.start_ticks;
    seen->created_ns = client->created_ns;
    seen->doomed_ns = client->doomed_ns;
    seen->kill_ns = client->kill_ns;
    seen->faults = client->faults;
    seen->sink_bytes = client->sink_bytes;
    seen->spent_ns = client->spent_ns;
    seen->sinks = client->sinks;
    seen->refused = client->refused;
    seen->state = client->state;
    seen->mode = client->mode;
    memcpy(seen->comm, client->who.comm, sizeof(seen->comm));
    return 0;
}

static int request_client_mode(mpsafe_core_t *core, const struct mpsafe_client_mode *wanted, const char **wrong)
{
    mpsafe_core_client_t *client = mpsafe_core_client_find(core, wanted->client);

    if (wanted->mode > MPSAFE_MODE_ABSORB && wanted->mode != MPSAFE_MODE_INHERIT)
        return refuse(wrong, "mode", -EINVAL);
    if (!IS_RESERVED(wanted))
        return refuse(wrong, "reserved", -EINVAL);
    if (!client)
        return refuse(wrong, "client", -ESRCH);

    client->mode = wanted->mode;
    return 0;
}

static int request_stats(mpsafe_core_t *core, struct mpsafe_stats *stats)
{
    *stats = core->stats;
    stats->doomed = core->doomed;
    mpsafe_ring_count(&core->ring, &stats->records, &stats->lost);
    return 0;
}

static int request_answer(mpsafe_core_t *core,
                          const struct mpsafe_answer *answer,
                          mpsafe_core_client_t **target,
                          const char **wrong)
{
    mpsafe_core_client_t *client = mpsafe_core_client_find(core, answer->client);
    bool extends = answer->action == MPSAFE_ANSWER_EXTEND;

    if (answer->action < MPSAFE_ANSWER_RELEASE || answer->action > MPSAFE_ANSWER_KILL)
        return refuse(wrong, "action", -EINVAL);
    if (answer->ms > (extends ? MPSAFE_EXTEND_MS_MAX : 0) || (extends && answer->ms == 0))
        return refuse(wrong, "ms", -EINVAL);
    if (!client || (answer->action == MPSAFE_ANSWER_KILL && !client->process))
        return refuse(wrong, "client", -ESRCH);
    if (client->state == MPSAFE_CLIENT_LIVE)
        return refuse(wrong, "client", -EINVAL);

    core->changed = true;
    switch (answer->action) {
        case MPSAFE_ANSWER_RELEASE:
            client->state = MPSAFE_CLIENT_RELEASED;
            break;
        case MPSAFE_ANSWER_EXTEND:
            client->hold_ns = mpsafe_core_deadline(core, answer->ms);
            if (client->kill_ns)
                client->kill_ns = client->hold_ns;
            break;
        default:
            client->kill_ns = 0;
            core->stats.killed++;
            *target = client;
    }
    return 0;
}

static int request_inject(mpsafe_core_t *core,
                          const struct mpsafe_inject *inject,
                          mpsafe_core_client_t **target,
                          const char **wrong)
{
    if (!core->config.ops->inject)
        return -EPERM;
    if (inject->access > MPSAFE_ACCESS_ATOMIC)
        return refuse(wrong, "access", -EINVAL);
    if (inject->fault < MPSAFE_FAULT_PDE || inject->fault > MPSAFE_FAULT_OTHER)
        return refuse(wrong, "fault", -EINVAL);
    if (inject->unit > MPSAFE_UNIT_COPY)
        return refuse(wrong, "unit", -EINVAL);
    if (inject->place > MPSAFE_PLACE_CHANNEL)
        return refuse(wrong, "place", -EINVAL);
    if (!IS_RESERVED(inject))
        return refuse(wrong, "reserved", -EINVAL);

    *target = mpsafe_core_client_find(core, inject->client);
    return *target ? 0 : refuse(wrong, "client", -ESRCH);
}

// Sets `target` where the request wants something of its client that no lock may be held for.
static int request_locked(mpsafe_core_t *core,
                          __u32 request,
                          void *payload,
                          mpsafe_core_client_t **target,
                          const char **wrong)
{
    if (!core->owned)
        return -EBADF;

    switch (request) {
        case MPSAFE_IOC_HELLO:
            return request_hello(core, payload, wrong);
        case MPSAFE_IOC_POLICY_SET:
            return request_policy_set(core, payload, wrong);
        case MPSAFE_IOC_POLICY_GET:
            return request_policy_get(core, payload);
        case MPSAFE_IOC_HEARTBEAT:
            return request_heartbeat(core);
        case MPSAFE_IOC_CLIENT_NEXT:
            return request_client_next(core, payload, wrong);
        case MPSAFE_IOC_CLIENT_MODE:
            return request_client_mode(core, payload, wrong);
        case MPSAFE_IOC_STATS:
            return request_stats(core, payload);
        case MPSAFE_IOC_ANSWER:
            return request_answer(core, payload, target, wrong);
        case MPSAFE_IOC_INJECT:
            return request_inject(core, payload, target, wrong);
        default:
            return -ENOTTY;
    }
}

int mpsafe_core_request(mpsafe_core_t *core, __u32 request, void *payload, __u64 now, const char **wrong)
{
    const mpsafe_core_ops_t *ops = core->config.ops;
    void *context = core->config.context;
    mpsafe_core_client_t *target = NULL;
    int result;

    *wrong = NULL;
    mpsafe_core_enter(core, now);
    result = request_locked(core, request, payload, &target, wrong);
    if (target)
        target->references++;
    mpsafe_core_leave(core);

    if (target) {
        if (request == MPSAFE_IOC_INJECT)
            result = ops->inject(context, target, payload);
        else
            ops->kill(context, target->process);
        mpsafe_core_client_put(target);
    }
    return result;
}
