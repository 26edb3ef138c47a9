/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
//
// /dev/mpsafe over the core, and what else of it takes a kernel: processes, time, waiting. No NVIDIA header here: it is
// built into nvidia-uvm.ko and into the stand-alone module, with the same module parameters:
//
//  mpsafe_enable    bool, 0444, default 1: without it there is no device, and all hooks do nothing
//  mpsafe_inject    bool, 0400, default 0: allow INJECT
//  mpsafe_ring      uint, 0444, default 16384: records that the ring holds, a power of two
//  mpsafe_features  uint, 0444, read only: MPSAFE_FEATURE_... of this module, also of one that is not enabled
//
#ifndef __MPSAFE_DEV_H__
#define __MPSAFE_DEV_H__

#include "mpsafe_core.h"

typedef struct
{
    __u32 features;     // MPSAFE_FEATURE_... without INJECT, which the parameter decides
    const char *driver; // version of the driver that is patched
    int (*inject)(void *context, mpsafe_core_client_t *client, struct mpsafe_inject *inject); // see mpsafe_core_ops_t
} mpsafe_dev_config_t;

// Returns 0 or a negative errno, and has told the kernel log why; 0 without a device if it is not enabled. Whatever it
// returns, all that follows may be called: without a device it does nothing.
int mpsafe_dev_init(const mpsafe_dev_config_t *config);

// No client may be left.
void mpsafe_dev_exit(void);

// NULL if there is no device.
mpsafe_core_t *mpsafe_dev_core(void);

// Whether INJECT is allowed.
bool mpsafe_dev_injects(void);

// A client that is the current process, found by `key` from then on. Returns 0 or a negative errno. May sleep.
int mpsafe_dev_client_create(const void *key);

// Waits as long as mpsafe_core_hold() says; not for a client that is not doomed. No signal ends it. May sleep; the
// caller holds no lock that a fault of anybody's needs.
void mpsafe_dev_client_hold(const void *key);

// Its address space is gone.
void mpsafe_dev_client_destroy(const void *key);

#endif // __MPSAFE_DEV_H__
