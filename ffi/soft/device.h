/* SPDX-License-Identifier: Apache-2.0 */
/* The devices of the software kernel; a CUdevice is its index. */
#ifndef SOFT_DEVICE_H
#define SOFT_DEVICE_H

#include <stdbool.h>

#include "driver.h"

/* Connects to the software kernel and asks what there is. */
CUresult devices_init(void);

bool device_exists(CUdevice device);
CUuuid device_uuid(CUdevice device);

/* The device with that UUID; -1: there is none. */
CUdevice device_by_uuid(CUuuid uuid);

#endif
