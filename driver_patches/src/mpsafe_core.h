/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
//
// What mpsafe knows of clients, faults and its owner: everything that needs no GPU.
//
// One source, three builds: in nvidia-uvm.ko behind uvm_mpsafe.c, in the stand-alone module behind standalone.c, and
// in user space for the tests. mpsafe_os.h is what differs. There is no NVIDIA header here and no clock: `now` is
// CLOCK_MONOTONIC in nanoseconds and given by the caller. Statuses are NV_STATUS values (MPSAFE_STATUS_...), results of
// requests are 0 or a negative errno. The core's clock never goes back: a `now` before one that it was told already
// counts as that one.
//
// A live client's fault is absorbed if the mode in force and the client's own both say ABSORB and the policy has its
// place and unit. A doomed or released client's is whatever any of these say, also with no owner: of it only what no
// sink can take passes (MPSAFE_FAULT_OTHER; a place other than WILD, HOLE, EXTERNAL; an unknown unit; no room), what
// there is no memory for, and what is over the limits. Those are of the policy that was set last, also by an owner that
// has gone: sinks_max counts the sinks that are there, budget_us ends also the faults that a sink covers already, so
// that an access that a sink does not help does not fault for ever. A kill's deadline is set when the client is
// doomed; a release leaves it, a kill ends it, and EXTEND moves what there is of it.
//
// Where the mode says OFF, a live client's faults and orphans are neither recorded nor counted. The owner's close
// forgets its policy and the clients' own modes. Records that no owner has read when they are overwritten are lost,
// also while there is none: the next one would have seen them.
//
// Locks, outermost first: a client's `lock` (may sleep; held from mpsafe_core_fault_begin() to
// mpsafe_core_fault_end(), so that one client's faults are dealt with one after the other), the core's `lock` (a spin
// lock: table, policy, owner, counters), the ring's `lock` (a spin lock). The core calls its `ops` with no lock held,
// unless it says otherwise.
//
#ifndef __MPSAFE_CORE_H__
#define __MPSAFE_CORE_H__

#include "mpsafe_os.h"
#include "mpsafe_uapi.h"

#define MPSAFE_SINK_SIZE 0x10000ULL             // the smallest sink: sparse PTEs are of 64 KiB
#define MPSAFE_SINK_SIZE_GROWN 0x200000ULL      // from policy.grow_after[0] sinks on
#define MPSAFE_SINK_SIZE_STORM 0x20000000ULL    // from policy.grow_after[1] sinks on

typedef struct mpsafe_core_struct mpsafe_core_t;
typedef struct mpsafe_core_client_struct mpsafe_core_client_t;

// What the core wants of the world around it.
typedef struct
{
    // A record is there, a client was released, or a deadline changed: readers, holders and the ticker look again.
    // May be called with a client's lock held.
    void (*wake)(void *context);

    // SIGKILL to the process that mpsafe_core_client_create() was given.
    void (*kill)(void *context, void *process);

    // The core has no more use for that process.
    void (*put_process)(void *context, void *process);

    // A fault as if the hardware had reported it. Returns 0, `status` filled in, or a negative errno. NULL: EPERM.
    int (*inject)(void *context, mpsafe_core_client_t *client, struct mpsafe_inject *inject);
} mpsafe_core_ops_t;

typedef struct
{
    __u64 load;
    __u64 loaded_ns;
    __u32 features;
    __u32 ring; // records; a power of two
    const char *driver;
    const mpsafe_core_ops_t *ops;
    void *context;
} mpsafe_core_config_t;

typedef struct
{
    __s32 tgid;
    __u32 uid;
    __u64 start_ticks;
    char comm[16];
} mpsafe_identity_t;

// One fault as a hook sees it. `room` are the addresses around `va` that a sink may cover: [start, end), both multiples
// of MPSAFE_SINK_SIZE, with nothing of the client's own in them; empty where there is no such room.
typedef struct
{
    __u64 va;
    __u64 room_start;
    __u64 room_end;
    __u16 access; // enum mpsafe_access
    __u16 fault;  // enum mpsafe_fault
    __u16 place;  // enum mpsafe_place
    __u16 unit;   // enum mpsafe_unit
    __u16 veid;
    __u16 gpc;
    __u8 gpu_uuid[16];
} mpsafe_sight_t;

// What to do about it: nothing more if `made`, since a sink covers the address already; else make one of
// [base, base + size), which overlaps no other sink of this client on this GPU.
typedef struct
{
    __u64 base;
    __u64 size;
    bool made;
} mpsafe_sink_t;

int mpsafe_core_init(mpsafe_core_t **core, const mpsafe_core_config_t *config);

// No client, owner or holder may be left.
void mpsafe_core_deinit(mpsafe_core_t *core);

// A client is found by `key`, the address of its VA space. The table holds one reference, and takes over `process`,
// also where it fails; NULL: there is nobody to kill. -EEXIST for a key that there is already. Without memory there is
// no client: its faults then find none, and the stock path runs.
int mpsafe_core_client_create(mpsafe_core_t *core,
                              const void *key,
                              const mpsafe_identity_t *who,
                              void *process,
                              __u64 now);

// NULL if there is none. Each reference is put back.
mpsafe_core_client_t *mpsafe_core_client_get(mpsafe_core_t *core, const void *key);
mpsafe_core_client_t *mpsafe_core_client_get_by_id(mpsafe_core_t *core, __u64 id);
const void *mpsafe_core_client_key(const mpsafe_core_client_t *client);
void mpsafe_core_client_put(mpsafe_core_client_t *client);

// Its address space is gone; all its sinks were dropped before. A doomed client's end is recorded. Waits for a fault
// that is under way; later ones of whoever still has a reference are refused. No client has this key: nothing.
void mpsafe_core_client_destroy(mpsafe_core_t *core, const void *key, __u64 now);

// Whether any client is doomed: one load, for places where a lookup would cost the innocent.
bool mpsafe_core_any_doomed(const mpsafe_core_t *core);

// Whether a new range of this client is to be refused; counts it if so.
bool mpsafe_core_refuses(mpsafe_core_t *core, mpsafe_core_client_t *client);

// MPSAFE_STATUS_OK: the caller makes `sink` (or finds it made). Any other status: the stock path is to run. Whatever
// it is, mpsafe_core_fault_end() follows on the same thread, with what has become of it.
__u32 mpsafe_core_fault_begin(mpsafe_core_t *core,
                              mpsafe_core_client_t *client,
                              const mpsafe_sight_t *sight,
                              __u64 now,
                              mpsafe_sink_t *sink);

// `backing` is what the caller needs to unmake a sink that it has just made, or NULL.
void mpsafe_core_fault_end(mpsafe_core_t *core,
                           mpsafe_core_client_t *client,
                           const mpsafe_sight_t *sight,
                           const mpsafe_sink_t *sink,
                           void *backing,
                           __u32 status,
                           __u64 now);

// Forgets this client's sinks on this GPU; calls `drop` for each that has a backing, with the client's lock held.
void mpsafe_core_sinks_drop(mpsafe_core_t *core,
                            mpsafe_core_client_t *client,
                            const __u8 gpu_uuid[16],
                            void (*drop)(void *context, void *backing),
                            void *context);

// A fault whose address space is gone.
void mpsafe_core_orphan(mpsafe_core_t *core, const mpsafe_sight_t *sight, __u64 now);

// How long, in nanoseconds, this client's page directory must still be kept; 0: no longer. The first call for a doomed
// client starts policy.hold_ms, and never shortens what EXTEND has given it.
__u64 mpsafe_core_hold(mpsafe_core_t *core, mpsafe_core_client_t *client, __u64 now);

// The owner. -EBUSY if there is one.
int mpsafe_core_open(mpsafe_core_t *core, __u64 now);
void mpsafe_core_close(mpsafe_core_t *core, __u64 now);

// One request: `payload` is the struct of that request in our memory, of _IOC_SIZE(request) bytes. `wrong` is set to
// the field that was refused, or to NULL. -EBADF without an owner.
int mpsafe_core_request(mpsafe_core_t *core, __u32 request, void *payload, __u64 now, const char **wrong);

// Copies the record that the owner reads next and moves on; false if there is none yet.
bool mpsafe_core_read(mpsafe_core_t *core, struct mpsafe_record *record);
bool mpsafe_core_readable(mpsafe_core_t *core);
void mpsafe_core_rewind(mpsafe_core_t *core);

// Deals with what is due: a missed heartbeat, a deadline. Returns when it wants to be called next, 0 for not until
// ops->wake() was called again.
__u64 mpsafe_core_tick(mpsafe_core_t *core, __u64 now);

#endif // __MPSAFE_CORE_H__
