/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
//
// The file operations of /dev/mpsafe: what mpsafe_uapi.h says of open, read, poll, lseek, ioctl and close.
//
#ifndef __MPSAFE_FILE_H__
#define __MPSAFE_FILE_H__

#include "mpsafe_core.h"

// Returns 0 or a negative errno. From then on /dev/mpsafe is there.
int mpsafe_file_init(mpsafe_core_t *core);

// The module is not in use: nobody has it open, and nobody can any more.
void mpsafe_file_exit(void);

// Readers look again.
void mpsafe_file_wake(void);

#endif // __MPSAFE_FILE_H__
