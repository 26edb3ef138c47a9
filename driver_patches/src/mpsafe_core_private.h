/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
//
// What the core's own files share. mpsafe_core.c: policy, owner, clock; mpsafe_client.c: the table; mpsafe_fault.c:
// faults and sinks; mpsafe_ring.c: records; mpsafe_request.c: what the owner asks.
//
#ifndef __MPSAFE_CORE_PRIVATE_H__
#define __MPSAFE_CORE_PRIVATE_H__

#include "mpsafe_core.h"

#define MPSAFE_NS_PER_MS 1000000ULL
#define MPSAFE_NS_PER_US 1000ULL
#define MPSAFE_RING_MAX (1u << 20)
#define MPSAFE_BUCKETS_BITS 10
#define MPSAFE_PLACES (1u << MPSAFE_PLACE_WILD | 1u << MPSAFE_PLACE_HOLE | 1u << MPSAFE_PLACE_EXTERNAL)
#define MPSAFE_UNITS (1u << MPSAFE_UNIT_SM | 1u << MPSAFE_UNIT_COPY)

// The record with number `seq` is in slot `seq & mask`. What no owner has read when it is overwritten is lost, also
// while there is no owner: the next one would have seen it.
typedef struct
{
    mpsafe_spin_t lock;
    struct mpsafe_record *records;
    __u64 mask;
    __u64 made;     // the last seq
    __u64 next;     // the seq that the owner reads next, if it is not overwritten by then
    __u64 seen;     // the highest seq that any owner has read
    __u64 lost;
} mpsafe_ring_t;

int mpsafe_ring_init(mpsafe_ring_t *ring, __u32 records);
void mpsafe_ring_deinit(mpsafe_ring_t *ring);
void mpsafe_ring_push(mpsafe_ring_t *ring, struct mpsafe_record *record);
bool mpsafe_ring_read(mpsafe_ring_t *ring, struct mpsafe_record *record);
bool mpsafe_ring_readable(mpsafe_ring_t *ring);
void mpsafe_ring_rewind(mpsafe_ring_t *ring);
void mpsafe_ring_count(mpsafe_ring_t *ring, __u64 *made, __u64 *lost);

// A sink that is made.
typedef struct
{
    __u8 gpu_uuid[16];
    __u64 base;
    __u64 size;
    void *backing;
} mpsafe_made_t;

struct mpsafe_core_client_struct
{
    // Never changed.
    mpsafe_core_t *core;
    const void *key;
    void *process;      // NULL: nobody to kill
    __u64 id;
    mpsafe_identity_t who;
    __u64 created_ns;

    // Under `lock`: the sinks in order of GPU and address, and the fault between its begin and its end.
    mpsafe_mutex_t lock;
    mpsafe_made_t *made;
    __u32 made_max;
    __u64 began_ns;
    __u32 verdict;
    bool silent;

    // Changed under both locks, read under either.
    __u32 sinks;
    bool gone;

    // Under the core's lock.
    __u64 references;
    __u16 state; // enum mpsafe_client_state
    __u16 mode;  // enum mpsafe_mode, or MPSAFE_MODE_INHERIT
    __u32 refused;
    __u64 doomed_ns;
    __u64 kill_ns;      // 0: never
    __u64 hold_ns;      // until when its page directory is kept
    bool holds;         // hold_ns has been started
    __u64 faults;
    __u64 sink_bytes;
    __u64 spent_ns;
    mpsafe_core_client_t *next; // by id
    mpsafe_core_client_t *previous;
    mpsafe_core_client_t *chain; // in its bucket
};

struct mpsafe_core_struct
{
    mpsafe_core_config_t config;
    mpsafe_ring_t ring;

    mpsafe_spin_t lock;
    __u64 now;              // the latest time that anybody told: it never goes back
    bool changed;           // somebody is to be woken when the lock is left
    bool owned;
    __u64 heartbeat_ns;
    __u16 in_force;         // enum mpsafe_mode, of the policy that was in force when it was last settled
    struct mpsafe_policy policy;
    struct mpsafe_policy limits; // the policy that was set last, by whichever owner: doomed clients are under it
    struct mpsafe_stats stats;
    __u32 doomed;           // of stats.clients; read without the lock, too
    __u64 last_id;
    mpsafe_core_client_t *first;
    mpsafe_core_client_t *last;
    mpsafe_core_client_t *buckets[1u << MPSAFE_BUCKETS_BITS];
};

// Takes the core's lock, brings its clock to `now` and settles the mode in force.
void mpsafe_core_enter(mpsafe_core_t *core, __u64 now);

// Releases the core's lock and wakes whom that concerns.
void mpsafe_core_leave(mpsafe_core_t *core);

// All below are called with the core's lock held.

void mpsafe_core_settle(mpsafe_core_t *core);

// `ms` from now; the end of time where that is later.
__u64 mpsafe_core_deadline(const mpsafe_core_t *core, __u32 ms);

// Completes the record with what the core and, unless it is NULL, the client have in common, and hands it out.
void mpsafe_core_record(mpsafe_core_t *core, const mpsafe_core_client_t *client, struct mpsafe_record *record);
void mpsafe_core_record_policy(mpsafe_core_t *core);

// NULL if there is none.
mpsafe_core_client_t *mpsafe_core_client_find(mpsafe_core_t *core, __u64 id);

#endif // __MPSAFE_CORE_PRIVATE_H__
