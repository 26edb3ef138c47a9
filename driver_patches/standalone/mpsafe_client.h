/* SPDX-License-Identifier: MIT OR (GPL-2.0-only WITH Linux-syscall-note) */
/*
 * /dev/mpsafe-client, of the stand-alone module: each open file is a make-believe address space, and so a client of
 * /dev/mpsafe, until its last descriptor is closed. Closing that of a doomed client takes as long as the driver would
 * keep its page directory. Anybody may open it.
 */
#ifndef MPSAFE_CLIENT_H
#define MPSAFE_CLIENT_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * Faults of this client at a steady rate, for load; without wake-ups finer than a millisecond they come in bursts.
 * EPERM without CAP_SYS_ADMIN, or unless the module's parameter mpsafe_inject is set; EINVAL for a field out of its
 * range. It returns when they are made, or early, with what was made, when a signal comes.
 */
struct mpsafe_client_storm {
    __u64 va;         /* of the first fault */
    __u64 stride;     /* from one to the next; 0: all at the same address */
    __u32 per_second; /* 1 to 1000000 */
    __u32 seconds;    /* 1 to 600 */
    __u64 made;       /* out: faults */
    __u64 absorbed;   /* out: of these */
    __u64 took_ns;    /* out */
};

#define MPSAFE_CLIENT_IOC_MAGIC 0xe8
#define MPSAFE_CLIENT_IOC_ID _IOR(MPSAFE_CLIENT_IOC_MAGIC, 0, __u64) /* this client's number; ENOENT: it is none */
#define MPSAFE_CLIENT_IOC_RANGE _IO(MPSAFE_CLIENT_IOC_MAGIC, 1)      /* a new range; EPERM if this client is doomed */
#define MPSAFE_CLIENT_IOC_STORM _IOWR(MPSAFE_CLIENT_IOC_MAGIC, 2, struct mpsafe_client_storm)

#endif
