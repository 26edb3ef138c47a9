/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver API that this library defines and exports: exactly what ffi/cuda.cdef.h declares.
 * Everything else is hidden. The layouts are those of cuda.h, CUDA 12 and 13, on 64-bit Linux.
 *
 * Each file uses only what stands below it:
 *
 *   symbols
 *   init device context stream event memory copy vmm module errors      the calls, by subject
 *   kernels ptx                                                         what a module holds
 *   warp queue                                                          how work runs
 *   space ranges allocation                                             where memory is
 *   rm mps object                                                       kernel, server, handles
 *   packet thread
 */
#ifndef SOFT_DRIVER_H
#define SOFT_DRIVER_H

#include <stddef.h>

#pragma GCC visibility push(default)
#include "../cuda.cdef.h"
#pragma GCC visibility pop

#define SOFT_CUDA_VERSION 13000
#define SOFT_DEVICES_MAX 16

_Static_assert(sizeof(CUresult) == 4, "CUresult is an int");
_Static_assert(sizeof(CUuuid) == 16, "CUuuid");
_Static_assert(sizeof(CUmemLocation) == 8, "CUmemLocation");
_Static_assert(sizeof(CUmemAccessDesc) == 12, "CUmemAccessDesc");
_Static_assert(offsetof(CUmemAccessDesc, flags) == 8, "CUmemAccessDesc.flags");
_Static_assert(sizeof(CUmemAllocationProp) == 32, "CUmemAllocationProp");
_Static_assert(offsetof(CUmemAllocationProp, win32HandleMetaData) == 16, "CUmemAllocationProp.win32HandleMetaData");
_Static_assert(offsetof(CUmemAllocationProp, allocFlags) == 24, "CUmemAllocationProp.allocFlags");

/* NOT_INITIALIZED before cuInit, after a failed one and in a forked child. */
CUresult driver_initialized(void);

/* The same, then the sticky error of this process: what each call that touches the device begins with. */
CUresult driver_ready(void);

#endif
