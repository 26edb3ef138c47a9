/* SPDX-License-Identifier: Apache-2.0 */
/* simulator.cdef.h for the compiler, once: cffi reads no guard. */
#ifndef MPSAFE_OPERATORS_SIMULATOR_H
#define MPSAFE_OPERATORS_SIMULATOR_H

#include <stdint.h>

#include "simulator.cdef.h"

#endif
