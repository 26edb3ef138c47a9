/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE 1
#include "thread.h"

#include <pthread.h>
#include <signal.h>

CUresult thread_start(void *(*run)(void *), void *argument)
{
    sigset_t all, before;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_detach(thread);
    return CUDA_SUCCESS;
}
