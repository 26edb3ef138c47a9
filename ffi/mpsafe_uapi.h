/* SPDX-License-Identifier: MIT OR (GPL-2.0-only WITH Linux-syscall-note) */
/*
 * /dev/mpsafe: the contract between the patched nvidia-uvm and user space.
 *
 * The device hands out fixed-size records and takes a policy. It is open once at a time, and whoever
 * holds that open file is the owner: a process, or between two processes a keeper that does nothing but
 * hold it (systemd's file descriptor store).
 *
 * Records. read() returns whole records, oldest first, as many as fit; poll() says that one is
 * there. They live in a ring and reading does not consume them: each open starts at the oldest
 * record still in the ring, as /dev/kmsg does, so an owner that died loses nothing and tells by
 * `seq` what it has seen already. lseek(fd, 0, SEEK_SET) goes back to that oldest record, also as
 * with /dev/kmsg, and every other lseek() fails with EINVAL: where it has read to belongs to the
 * open file, so a process that takes it over from a keeper rewinds first. `seq` counts from 1 within
 * one `load`, a random number drawn when the module was loaded. A gap in `seq` counts the records
 * that were overwritten unread.
 *
 * Policy. OFF (the default): stock behaviour, no record. OBSERVE: stock behaviour, recorded.
 * ABSORB: a memory fault that a sink can take is absorbed and its client is doomed. Each change is
 * answered by a record of type POLICY that shows what is in force now.
 *
 * Dead-man switch. When the last descriptor of the open file is closed, or no heartbeat came for
 * MPSAFE_HEARTBEAT_MS, also while a keeper holds it, new faults meet stock behaviour again. Clients
 * doomed before stay absorbed until they are gone.
 */
#ifndef MPSAFE_UAPI_H
#define MPSAFE_UAPI_H

#include <linux/types.h>

#define MPSAFE_ABI 1
#define MPSAFE_HEARTBEAT_MS 5000

enum mpsafe_mode { MPSAFE_MODE_OFF = 0, MPSAFE_MODE_OBSERVE = 1, MPSAFE_MODE_ABSORB = 2 };

enum mpsafe_record_type {
    MPSAFE_RECORD_POLICY = 1,   /* the mode now in force, in `mode` */
    MPSAFE_RECORD_ABSORBED = 2, /* a sink took the access; the client is doomed */
    MPSAFE_RECORD_PASSED = 3,   /* seen, not taken: stock behaviour ran; `status` says why */
    MPSAFE_RECORD_GONE = 4,     /* a doomed client's address space is gone */
};

enum mpsafe_access { MPSAFE_ACCESS_NONE = 0, MPSAFE_ACCESS_READ = 1, MPSAFE_ACCESS_WRITE = 2, MPSAFE_ACCESS_ATOMIC = 3 };

enum mpsafe_fault { MPSAFE_FAULT_PDE = 1, MPSAFE_FAULT_PTE = 2, MPSAFE_FAULT_RO = 3 };

struct mpsafe_record {
    __u32 size;          /* of this record in bytes: newer modules may append fields */
    __u16 type;          /* enum mpsafe_record_type */
    __u16 mode;          /* enum mpsafe_mode in force when the record was made */
    __u64 load;          /* which load of the module made it */
    __u64 seq;           /* from 1 within that load */
    __u64 time_ns;       /* CLOCK_MONOTONIC */
    __u64 client;        /* the client's address space, never used twice within one load */
    __s32 tgid;          /* the client's process, in the initial pid namespace */
    __u32 uid;           /* its effective user, in the initial user namespace */
    __u64 start_ticks;   /* field 22 of /proc/TGID/stat: with tgid it names one process */
    __u64 va;            /* the address that faulted */
    __u64 sink_base;     /* what a sink covers now: its first address */
    __u64 sink_size;     /* and how many bytes; 0 where there is none */
    __u64 faults;        /* of this client so far */
    __u16 access;        /* enum mpsafe_access */
    __u16 fault;         /* enum mpsafe_fault */
    __s32 status;        /* 0, or the NV_STATUS that kept the fault from being absorbed */
    __u32 latency_ns;    /* from the bottom half's first sight of the fault to its end */
    __u32 reserved;
    __u8 gpu_uuid[16];
    char comm[16];       /* of the client's process, zero-terminated */
};

#endif
