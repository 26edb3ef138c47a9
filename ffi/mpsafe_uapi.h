/* SPDX-License-Identifier: MIT OR (GPL-2.0-only WITH Linux-syscall-note) */
/*
 * /dev/mpsafe: the contract between the patched nvidia-uvm and user space.
 *
 * The device hands out fixed-size records and takes a policy. It is open once at a time (a second open fails
 * with EBUSY) and only to CAP_SYS_ADMIN in the initial user namespace (else EPERM). Whoever holds that open
 * file is the owner: a process, or between two processes a keeper that does nothing but hold it (systemd's
 * file descriptor store).
 *
 * Records. read() returns whole records, oldest first, as many as fit: EINVAL for a buffer shorter than one,
 * EAGAIN for a non-blocking file without one. poll() says that one is there. They live in a ring and reading
 * does not consume them: each open starts at the oldest record still in the ring, as /dev/kmsg does, so an
 * owner that died loses nothing and tells by `seq` what it has seen already. lseek(fd, 0, SEEK_SET) goes back
 * to that oldest record, also as with /dev/kmsg, and every other lseek() fails with EINVAL: where it has read
 * to belongs to the open file, so a process that takes it over from a keeper rewinds first. `seq` counts from
 * 1 within one `load`, a random number drawn when the module was loaded. A gap in `seq` counts the records
 * that were overwritten unread.
 *
 * Clients. A client is one address space of nvidia-uvm: under MPS one process on its devices. It is `live`
 * until a fault of it is absorbed, `doomed` from then on, and no client once its address space is gone. A
 * doomed client gets no new range of addresses.
 *
 * Policy. OFF (the default): stock behaviour, no record. OBSERVE: stock behaviour, recorded.
 * ABSORB: a memory fault that a sink can take is absorbed and its client is doomed. Each change of the mode
 * in force is answered by a record of type POLICY that shows what is in force now.
 *
 * Dead-man switch. When the last descriptor of the open file is closed, or no heartbeat came for
 * MPSAFE_HEARTBEAT_MS, also while a keeper holds it, new faults meet stock behaviour again. A policy that is
 * set counts as a heartbeat; a heartbeat brings a mode back that a missed one had put off. Clients doomed
 * before stay absorbed until they are gone.
 *
 * Requests. Each is an ioctl with one struct of a fixed size, which is part of its number. What no request
 * has is refused with ENOTTY, a bad pointer with EFAULT, a field out of its range or a `reserved` that is not
 * zero with EINVAL, a client that there is not with ESRCH; a request that is refused changes nothing, and
 * the kernel log says which field was wrong (rate-limited). The struct of HELLO never changes; the others are
 * those of the ABI that it tells. Layouts are the same for 32- and 64-bit user space.
 */
#ifndef MPSAFE_UAPI_H
#define MPSAFE_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define MPSAFE_ABI 1
#define MPSAFE_HEARTBEAT_MS 5000

enum mpsafe_mode { MPSAFE_MODE_OFF = 0, MPSAFE_MODE_OBSERVE = 1, MPSAFE_MODE_ABSORB = 2 };

enum mpsafe_record_type {
    MPSAFE_RECORD_POLICY = 1,   /* the mode now in force, in `mode` */
    MPSAFE_RECORD_ABSORBED = 2, /* a sink took the access; the client is doomed */
    MPSAFE_RECORD_PASSED = 3,   /* seen, not taken: stock behaviour ran; `status` says why */
    MPSAFE_RECORD_GONE = 4,     /* a doomed client's address space is gone */
    MPSAFE_RECORD_ORPHAN = 5,   /* a fault whose address space is gone already: stock behaviour ran */
    MPSAFE_RECORD_KILLED = 6,   /* the kernel's own deadline passed: SIGKILL was sent */
};

enum mpsafe_access { MPSAFE_ACCESS_NONE = 0, MPSAFE_ACCESS_READ = 1, MPSAFE_ACCESS_WRITE = 2, MPSAFE_ACCESS_ATOMIC = 3 };

enum mpsafe_fault {
    MPSAFE_FAULT_PDE = 1,   /* no page table there */
    MPSAFE_FAULT_PTE = 2,   /* no page there */
    MPSAFE_FAULT_RO = 3,    /* a page that this access is not allowed on: write, atomic, or read */
    MPSAFE_FAULT_OTHER = 4, /* of a kind that no mapping helps: uvm_fault_type_t, UVM_FAULT_TYPE_FATAL and above */
};

/* Where the address lies: what decides which sink there is. */
enum mpsafe_place {
    MPSAFE_PLACE_UNKNOWN = 0,
    MPSAFE_PLACE_WILD = 1,     /* in no range: a wild pointer, a use after free */
    MPSAFE_PLACE_HOLE = 2,     /* in an external range where nothing is mapped: reserved, or freed */
    MPSAFE_PLACE_EXTERNAL = 3, /* on a map of an external range that does not allow the access */
    MPSAFE_PLACE_MANAGED = 4,  /* in managed memory */
    MPSAFE_PLACE_CHANNEL = 5,  /* in a channel's, a scheduler's or a semaphore's range */
};

/* Who made the access. */
enum mpsafe_unit {
    MPSAFE_UNIT_UNKNOWN = 0,
    MPSAFE_UNIT_SM = 1,   /* a replayable fault, of a GPC */
    MPSAFE_UNIT_COPY = 2, /* a non-replayable fault: a copy engine, or the host engine */
};

/* Why a fault passed, where no NV_STATUS of the driver says it: values that NVIDIA's nvstatuscodes.h has too. */
#define MPSAFE_STATUS_OK 0x00
#define MPSAFE_STATUS_NOT_SUPPORTED 0x56 /* NV_ERR_NOT_SUPPORTED: of a class that no sink takes, or not in `places` */
#define MPSAFE_STATUS_NO_MEMORY 0x51     /* NV_ERR_NO_MEMORY */
#define MPSAFE_STATUS_LIMIT 0x1a         /* NV_ERR_INSUFFICIENT_RESOURCES: `sinks_max` or `budget_us` is spent */
#define MPSAFE_STATUS_STATE 0x40         /* NV_ERR_INVALID_STATE: the mode in force is not ABSORB */

struct mpsafe_record {
    __u32 size;          /* of this record in bytes: newer modules may append fields */
    __u16 type;          /* enum mpsafe_record_type */
    __u16 mode;          /* enum mpsafe_mode in force when the record was made */
    __u64 load;          /* which load of the module made it */
    __u64 seq;           /* from 1 within that load */
    __u64 time_ns;       /* CLOCK_MONOTONIC */
    __u64 client;        /* the client's address space, never used twice within one load; 0 if there is none */
    __s32 tgid;          /* the client's process, in the initial pid namespace */
    __u32 uid;           /* its effective user, in the initial user namespace */
    __u64 start_ticks;   /* field 22 of /proc/TGID/stat: with tgid it names one process */
    __u64 va;            /* the address that faulted */
    __u64 sink_base;     /* what a sink covers now: its first address */
    __u64 sink_size;     /* and how many bytes; 0 where there is none */
    __u64 faults;        /* of this client so far */
    __u16 access;        /* enum mpsafe_access */
    __u16 fault;         /* enum mpsafe_fault */
    __u32 status;        /* 0, or the NV_STATUS that kept the fault from being absorbed */
    __u32 latency_ns;    /* from the hook's first sight of the fault to its end */
    __u16 place;         /* enum mpsafe_place */
    __u16 unit;          /* enum mpsafe_unit */
    __u8 gpu_uuid[16];
    char comm[16];       /* of the client's process, zero-terminated */
    __u16 veid;          /* the subcontext, of an SM's fault */
    __u16 gpc;           /* the GPC, of an SM's fault */
    __u32 reserved;
};

#define MPSAFE_FEATURE_REPLAYABLE (1u << 0)     /* faults of SMs are seen: hook in cancel_fault_precise_va */
#define MPSAFE_FEATURE_NON_REPLAYABLE (1u << 1) /* faults of copy engines are seen: hook in service_fault */
#define MPSAFE_FEATURE_ORPHAN (1u << 2)         /* orphans are seen: hook in translate_instance_ptrs */
#define MPSAFE_FEATURE_REFUSE (1u << 3)         /* doomed clients get no new range */
#define MPSAFE_FEATURE_HOLD (1u << 4)           /* a doomed client's page directory is kept for `hold_ms` */
#define MPSAFE_FEATURE_INJECT (1u << 5)         /* INJECT is allowed: module parameter */
#define MPSAFE_FEATURE_STANDALONE (1u << 6)     /* no driver is behind this: clients and sinks are make-believe */

/* In: size, abi and reserved, the rest is ignored. EPROTO, with `abi` filled in, if the module speaks another one. */
struct mpsafe_hello {
    __u32 size;        /* in, out: of this struct */
    __u32 abi;         /* in: MPSAFE_ABI of the caller; out: of the module */
    __u64 load;        /* out: which load of the module this is */
    __u64 loaded_ns;   /* out: when it was loaded, CLOCK_BOOTTIME */
    __u32 features;    /* out: MPSAFE_FEATURE_... */
    __u32 ring;        /* out: records that the ring holds */
    __u32 record_size; /* out: sizeof(struct mpsafe_record) of the module */
    __u32 reserved;
    char driver[32];   /* out: the version of the driver that is patched, "none" in the stand-alone module */
};

/* All of it is replaced at once. GET tells the policy that was set, also while the dead man's switch has put it off. */
struct mpsafe_policy {
    __u16 mode;          /* enum mpsafe_mode */
    __u16 in_force;      /* GET: enum mpsafe_mode in force now; SET: 0 */
    __u32 places;        /* 1u << enum mpsafe_place of each place to absorb in: WILD, HOLE, EXTERNAL */
    __u32 units;         /* 1u << enum mpsafe_unit of each unit to absorb for */
    __u32 sinks_max;     /* of one client: 1 to MPSAFE_SINKS_MAX */
    __u32 budget_us;     /* what one client's faults may cost in all: 1 to 60000000 */
    __u32 grow_after[2]; /* with so many sinks already, the next is of 2 MiB, of 512 MiB; ascending, 0: at once */
    __u32 hold_ms;       /* how long a doomed client's page directory waits for RELEASE: 0 (not at all) to 60000 */
    __u32 kill_ms;       /* SIGKILL to a client so long after it was doomed: 0 (never, the default) to 600000.
                            Dangerous: what it still runs on the device may then end the whole group. */
    __u32 reserved[3];
};

#define MPSAFE_SINKS_MAX 4096

enum mpsafe_client_state { MPSAFE_CLIENT_LIVE = 1, MPSAFE_CLIENT_DOOMED = 2, MPSAFE_CLIENT_RELEASED = 3 };

/* In: `client`, the last one seen, 0 to begin. Out: the next one by number; ENOENT after the last. */
struct mpsafe_client {
    __u64 client;
    __s32 tgid;
    __u32 uid;
    __u64 start_ticks;
    __u64 created_ns;   /* CLOCK_MONOTONIC, as the other two */
    __u64 doomed_ns;    /* 0: is not */
    __u64 kill_ns;      /* when the kernel will kill it; 0: never */
    __u64 faults;       /* absorbed and passed */
    __u64 sink_bytes;   /* what its sinks cover */
    __u64 spent_ns;     /* what its faults have cost */
    __u32 sinks;
    __u32 refused;      /* new ranges that it was refused */
    __u16 state;        /* enum mpsafe_client_state */
    __u16 mode;         /* enum mpsafe_mode of its own, set by CLIENT_MODE; MPSAFE_MODE_INHERIT: the policy's */
    __u32 reserved;
    char comm[16];
};

#define MPSAFE_MODE_INHERIT 0xffff

/* A mode for one client, below that of the policy: a client is absorbed only if both say so. */
struct mpsafe_client_mode {
    __u64 client;
    __u16 mode;        /* enum mpsafe_mode, or MPSAFE_MODE_INHERIT */
    __u16 reserved[3];
};

struct mpsafe_stats {
    __u64 absorbed;
    __u64 passed;
    __u64 orphans;
    __u64 refused;
    __u64 killed;
    __u64 records;        /* made so far: the last `seq` */
    __u64 lost;           /* of these, overwritten before the owner had read them */
    __u64 expired;        /* how often a missed heartbeat has put the mode off */
    __u64 latency_max_ns; /* of one absorbed fault */
    __u32 clients;        /* now */
    __u32 doomed;         /* of these */
    __u32 sinks;          /* now */
    __u32 reserved;
};

enum mpsafe_answer_action {
    MPSAFE_ANSWER_RELEASE = 1, /* its work is proven stopped: nothing of it needs to wait any more */
    MPSAFE_ANSWER_EXTEND = 2,  /* the kernel's own kill and the hold are put off until `ms` from now */
    MPSAFE_ANSWER_KILL = 3,    /* SIGKILL now, to that very process, whoever has its pid by then */
};

/* About a doomed client; EINVAL for one that is not. */
struct mpsafe_answer {
    __u64 client;
    __u32 action;   /* enum mpsafe_answer_action */
    __u32 ms;       /* EXTEND: 1 to 600000; else 0 */
};

/*
 * A fault as if the hardware had reported it, for tests: EPERM unless the module's parameter mpsafe_inject is set. It
 * goes the way of a real one from the hook on. Out: `status`, 0 if it was absorbed. ENODEV if the client is not on that
 * GPU; a `gpu_uuid` of zeros means any of its GPUs.
 */
struct mpsafe_inject {
    __u64 client;
    __u64 va;
    __u16 access;  /* enum mpsafe_access */
    __u16 fault;   /* enum mpsafe_fault */
    __u16 unit;    /* enum mpsafe_unit */
    __u16 place;   /* enum mpsafe_place as the stand-alone module is to believe it; the driver finds out itself: 0 */
    __u32 status;  /* out */
    __u32 reserved;
    __u8 gpu_uuid[16];
};

#define MPSAFE_IOC_MAGIC 0xe7
#define MPSAFE_IOC_HELLO _IOWR(MPSAFE_IOC_MAGIC, 0, struct mpsafe_hello)
#define MPSAFE_IOC_POLICY_SET _IOW(MPSAFE_IOC_MAGIC, 1, struct mpsafe_policy)
#define MPSAFE_IOC_POLICY_GET _IOR(MPSAFE_IOC_MAGIC, 2, struct mpsafe_policy)
#define MPSAFE_IOC_HEARTBEAT _IO(MPSAFE_IOC_MAGIC, 3)
#define MPSAFE_IOC_CLIENT_NEXT _IOWR(MPSAFE_IOC_MAGIC, 4, struct mpsafe_client)
#define MPSAFE_IOC_CLIENT_MODE _IOW(MPSAFE_IOC_MAGIC, 5, struct mpsafe_client_mode)
#define MPSAFE_IOC_STATS _IOR(MPSAFE_IOC_MAGIC, 6, struct mpsafe_stats)
#define MPSAFE_IOC_ANSWER _IOW(MPSAFE_IOC_MAGIC, 7, struct mpsafe_answer)
#define MPSAFE_IOC_INJECT _IOWR(MPSAFE_IOC_MAGIC, 8, struct mpsafe_inject)

#endif
