/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives between the first nvmlInit and the last nvmlShutdown: one connection and the table of
 * devices. Every function here may be called from any thread.
 */
#ifndef SOFT_NVML_STATE_H
#define SOFT_NVML_STATE_H

#include "nvml_link.h"

#define SOFT_DEVICES_MAX 16u

/* What does not change while the device is there. */
struct soft_device {
    unsigned int index;
    char uuid[48];
    char name[64];
    unsigned int domain;
    unsigned int bus;
    unsigned int slot;
    unsigned int sms;
};

/* One more user. Only the first one connects. */
nvmlReturn_t state_init(void);
/* One user less; *last is set when it was the last. UNINITIALIZED: there was none. */
nvmlReturn_t state_deinit(bool *last);

/* UNINITIALIZED, or SUCCESS with a copy of the text; INSUFFICIENT_SIZE if it does not fit. */
nvmlReturn_t state_driver_version(char *ret, unsigned int size);
nvmlReturn_t state_cuda_version(unsigned int *ret);
nvmlReturn_t state_device_count(unsigned int *ret);

/* UNINITIALIZED, INVALID_ARGUMENT: no handle of ours; else SUCCESS. */
nvmlReturn_t state_check(nvmlDevice_t device);
/* The handle of an index below the count; INVALID_ARGUMENT: there is no such index. */
nvmlReturn_t state_device(unsigned int index, nvmlDevice_t *ret);

/* "<verb> <index of the device>", asked on the one connection. */
nvmlReturn_t state_ask(nvmlDevice_t device, const char *verb, struct packet *reply);

#endif
