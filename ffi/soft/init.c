/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE 1
#include <pthread.h>
#include <stdatomic.h>

#include "device.h"
#include "driver.h"
#include "mps.h"
#include "rm.h"

enum state { STATE_NEW, STATE_READY, STATE_FORKED };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic enum state state;

CUresult driver_initialized(void)
{
    return atomic_load(&state) == STATE_READY ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

CUresult driver_ready(void)
{
    CUresult result = driver_initialized();
    return result ? result : rm_error();
}

/*
 * A child of a process that has initialised cannot use the driver, as with the real one: its threads
 * are gone and its connections are the parent's, which must end with the parent.
 */
static void driver_forked(void)
{
    if (atomic_load(&state) == STATE_READY) {
        atomic_store(&state, STATE_FORKED);
        mps_leave();
        rm_disconnect();
    }
}

static CUresult driver_init(void)
{
    CUresult result = mps_join();
    if (result)
        return result;
    result = devices_init();
    if (!result)
        result = mps_serve_start();
    if (result) {
        rm_disconnect();
        mps_leave();
    }
    return result;
}

CUresult cuInit(unsigned int flags)
{
    if (flags)
        return CUDA_ERROR_INVALID_VALUE;
    if (atomic_load(&state) == STATE_FORKED)
        return CUDA_ERROR_NOT_INITIALIZED;
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    if (atomic_load(&state) == STATE_NEW) {
        result = driver_init();
        if (!result) {
            pthread_atfork(NULL, NULL, driver_forked);
            atomic_store(&state, STATE_READY);
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult cuDriverGetVersion(int *version)
{
    if (!version)
        return CUDA_ERROR_INVALID_VALUE;
    *version = SOFT_CUDA_VERSION;
    return CUDA_SUCCESS;
}
