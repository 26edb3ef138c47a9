/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SOFT_MODULE_H
#define SOFT_MODULE_H

struct CUctx_st;

void modules_destroy(struct CUctx_st *context);

#endif
