/* SPDX-License-Identifier: Apache-2.0 */
/* As much of PTX as it takes to know which kernels a text declares. */
#ifndef SOFT_PTX_H
#define SOFT_PTX_H

#include <stdbool.h>

/* Whether the text begins with .version, as every PTX text must. */
bool ptx_check(const char *text);

/* Whether the text has an .entry of that name. */
bool ptx_declares(const char *text, const char *name);

#endif
