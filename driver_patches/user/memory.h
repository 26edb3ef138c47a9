/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
//
// The core's memory in user space.
//
#ifndef __MPSAFE_MEMORY_H__
#define __MPSAFE_MEMORY_H__

// After so many more allocations all fail; a negative number: none does.
void mpsafe_memory_fail_after(long allocations);

// How many are not freed.
long mpsafe_memory_live(void);

#endif // __MPSAFE_MEMORY_H__
