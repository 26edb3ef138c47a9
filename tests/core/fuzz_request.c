/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer on mpsafe_core_request(): its input is a sequence of requests, faults and leaps in time. Each input is
 * one core's life. What is checked: no sanitizer speaks, `wrong` is set only where a request was refused, and nothing
 * is left.
 */
#include <stdlib.h>

#include "memory.h"
#include "mpsafe_core.h"

int LLVMFuzzerTestOneInput(const __u8 *data, size_t size);

static const __u32 requests[] = {
    MPSAFE_IOC_HELLO,       MPSAFE_IOC_POLICY_SET,  MPSAFE_IOC_POLICY_GET, MPSAFE_IOC_HEARTBEAT, MPSAFE_IOC_CLIENT_NEXT,
    MPSAFE_IOC_CLIENT_MODE, MPSAFE_IOC_STATS,       MPSAFE_IOC_ANSWER,     MPSAFE_IOC_INJECT,
};

static void wake(void *context)
{
    (void)context;
}

static void with_process(void *context, void *process)
{
    (void)context;
    if (!process)
        abort();
}

static __u64 now = 1;
static const __u8 gpu_uuid[16];

static void fault(mpsafe_core_t *core, mpsafe_core_client_t *client, __u64 va)
{
    mpsafe_sight_t sight = {.va = va, .room_end = 1ULL << 57, .fault = MPSAFE_FAULT_PTE, .unit = MPSAFE_UNIT_SM};
    mpsafe_sink_t sink;
    __u32 status;

    sight.place = MPSAFE_PLACE_WILD;
    status = mpsafe_core_fault_begin(core, client, &sight, now, &sink);
    mpsafe_core_fault_end(core, client, &sight, &sink, NULL, status, now + 1000);
}

static int inject(void *context, mpsafe_core_client_t *client, struct mpsafe_inject *injected)
{
    fault(*(mpsafe_core_t **)context, client, injected->va >> 7);
    return 0;
}

/* One step; returns how many bytes it took. */
static size_t step(mpsafe_core_t *core, const __u8 *data, size_t size)
{
    __u32 request = requests[data[0] % (sizeof(requests) / sizeof(requests[0]))];
    size_t length = _IOC_SIZE(request);
    const char *wrong = "not set";
    struct mpsafe_record record;
    mpsafe_core_client_t *client;
    void *payload;
    int result;

    switch (data[0] >> 5) {
        case 0:
            client = mpsafe_core_client_get_by_id(core, 1 + data[0] % 3);
            if (client) {
                fault(core, client, (__u64)(data[0] & 0x1c) << 14);
                mpsafe_core_client_put(client);
            }
            return 1;
        case 1:
            now += (__u64)(data[0] & 0x1f) << 29;
            mpsafe_core_tick(core, now);
            return 1;
        case 2:
            while (mpsafe_core_read(core, &record))
                continue;
            return 1;
        default:
            break;
    }

    /* Of exactly its size, so that a step over its end is seen. */
    payload = calloc(1, length ? length : 1);
    if (!payload)
        abort();
    memcpy(payload, data + 1, size - 1 < length ? size - 1 : length);
    result = mpsafe_core_request(core, request, payload, now, &wrong);
    if (wrong && result == 0)
        abort();
    free(payload);
    return 1 + length;
}

int LLVMFuzzerTestOneInput(const __u8 *data, size_t size)
{
    static const mpsafe_core_ops_t ops = {wake, with_process, with_process, inject};
    static const mpsafe_identity_t who = {.tgid = 1, .comm = "fuzz"};
    mpsafe_core_t *core = NULL;
    const mpsafe_core_config_t config = {.load = 1, .ring = 8, .driver = "none", .ops = &ops, .context = &core};
    __u64 key;

    if (mpsafe_core_init(&core, &config) != 0)
        abort();
    for (key = 1; key <= 3; key++)
        (void)mpsafe_core_client_create(core, (void *)(uintptr_t)key, &who, (void *)(uintptr_t)key, now);
    (void)mpsafe_core_open(core, now);

    while (size > 0) {
        size_t taken = step(core, data, size);

        data += taken < size ? taken : size;
        size -= taken < size ? taken : size;
    }

    for (key = 1; key <= 3; key++) {
        mpsafe_core_client_t *client = mpsafe_core_client_get(core, (void *)(uintptr_t)key);

        mpsafe_core_sinks_drop(core, client, gpu_uuid, NULL, NULL);
        mpsafe_core_client_put(client);
        mpsafe_core_client_destroy(core, (void *)(uintptr_t)key, now);
    }
    mpsafe_core_close(core, now);
    mpsafe_core_deinit(core);
    if (mpsafe_memory_live() != 0)
        abort();
    return 0;
}
