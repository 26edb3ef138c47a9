/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#ifndef __UVM_MPSAFE_INJECT_H__
#define __UVM_MPSAFE_INJECT_H__

#include "mpsafe_core.h"

// A fault as if the hardware had reported it, from the hook on: see mpsafe_core_ops_t. -ESRCH: the client is going;
// -ENODEV: it is not on that GPU. Tests what is done about a fault, not that the hardware then goes on.
int uvm_mpsafe_inject(void *context, mpsafe_core_client_t *client, struct mpsafe_inject *inject);

#endif // __UVM_MPSAFE_INJECT_H__
