/* SPDX-License-Identifier: Apache-2.0 */
/* What the entries of kernels.ptx do that a small decoder needs. */
#ifndef SOFT_DECODER_H
#define SOFT_DECODER_H

#include "kernels.h"

void kernel_accumulate(const struct launch *launch);
void kernel_rms_norm(const struct launch *launch);
void kernel_gate(const struct launch *launch);
void kernel_attend(const struct launch *launch);
void kernel_argmax(const struct launch *launch);

#endif
