/* SPDX-License-Identifier: Apache-2.0 */
/* Threads of the library's own. None is started before cuInit under MPS, or before the first work without it. */
#ifndef SOFT_THREAD_H
#define SOFT_THREAD_H

#include "driver.h"

/* A detached thread that takes no signal: those are the program's. OUT_OF_MEMORY: there is no room for one. */
CUresult thread_start(void *(*run)(void *), void *argument);

#endif
