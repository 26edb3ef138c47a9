/* SPDX-License-Identifier: Apache-2.0 */
/* Which handles are good: a handle that was destroyed or made up is refused, never followed. */
#ifndef SOFT_OBJECT_H
#define SOFT_OBJECT_H

#include <stdbool.h>

#include "driver.h"

enum object_kind { OBJECT_CONTEXT, OBJECT_STREAM, OBJECT_EVENT, OBJECT_MODULE, OBJECT_FUNCTION };

/* `owner`: what it ends with, or NULL. OUT_OF_MEMORY: no room for one more. */
CUresult object_add(enum object_kind kind, void *object, const void *owner);
bool object_exists(enum object_kind kind, const void *object);

/* False: no such object. */
bool object_remove(enum object_kind kind, const void *object);

/* Some object of that kind and owner, no longer registered; NULL: there is none. */
void *object_take(enum object_kind kind, const void *owner);

#endif
