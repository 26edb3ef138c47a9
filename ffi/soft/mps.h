/* SPDX-License-Identifier: Apache-2.0 */
/* The client's side of MPS (wire.h): who the server is, and what it wants of this process. */
#ifndef SOFT_MPS_H
#define SOFT_MPS_H

#include <stdbool.h>

#include "driver.h"

/*
 * Connects to the control daemon and the server that it names. SUCCESS as well where there is no
 * MPS: the ordinary path. Waits as long as the daemon keeps this client on its pending list.
 */
CUresult mps_join(void);
void mps_leave(void);

/* From here on a thread answers the server, if there is one. The server's end leaves RPC_FAILURE behind. */
CUresult mps_serve_start(void);

/* Whether this process is a client; the channel group that its contexts belong to (0: none). */
bool mps_joined(void);
unsigned long mps_group(void);

#endif
