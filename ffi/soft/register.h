/* SPDX-License-Identifier: Apache-2.0 */
/* Host memory that cuMemHostRegister has been told of. */
#ifndef SOFT_REGISTER_H
#define SOFT_REGISTER_H

#include <stdbool.h>
#include <stddef.h>

/* Whether all of that memory is registered, as one piece. */
bool registered(const void *host, size_t bytes);

#endif
