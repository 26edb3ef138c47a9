/* SPDX-License-Identifier: Apache-2.0 */
#ifndef EXPERTS_FAST_H
#define EXPERTS_FAST_H

/* One body, compiled for what the machine has; loops over logf and expf become calls of glibc's vector functions. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define FAST __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define FAST
#endif

#endif
