/* SPDX-License-Identifier: Apache-2.0 */
/* The connection to the software kernel (wire.h), and the notifier page that it writes. */
#ifndef SOFT_RM_H
#define SOFT_RM_H

#include <stdint.h>

#include "driver.h"

struct rm_device {
    char uuid[48];
    char pci[24];
    char name[256];
    unsigned long long total_bytes;
    unsigned long long used_bytes;
    int sms;
};

/* NO_DEVICE: no MPSAFE_SOFT_DIR, or nobody listens there. */
CUresult rm_connect(int *devices);
void rm_disconnect(void);

/* The sticky error: the notifier's, else the first that rm_fail was given; 0 while all is well. */
CUresult rm_error(void);
void rm_fail(CUresult error);

CUresult rm_device(int device, struct rm_device *ret);

CUresult rm_open(int device, unsigned long group, unsigned long *channel);
void rm_close(unsigned long channel);

CUresult rm_alloc(int device, uint64_t id, uint64_t bytes);
void rm_free(int device, uint64_t id);

/* A warp of this channel faulted. 0: absorbed, go on. Otherwise the error that now sticks. */
CUresult rm_fault(unsigned long channel, const char *fault_class, const char *detail, uint64_t address,
                  const char *access);

#endif
