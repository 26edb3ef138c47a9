/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection to the software kernel in the role nvml (the language: wire.h).
 *
 * A software kernel that does not answer is waited for without a limit, as the real library waits
 * for a device that is dying: whoever cannot afford that puts NVML into a process of its own.
 */
#ifndef SOFT_NVML_LINK_H
#define SOFT_NVML_LINK_H

#include <stdbool.h>

#include "nvml_types.h"
#include "wire.h"

/* A packet as text, always zero-terminated. */
struct packet {
    char text[SOFT_PACKET_MAX + 1];
};

/*
 * Connects to $MPSAFE_SOFT_DIR/rm and says hello; the reply is left in *hello.
 * DRIVER_NOT_LOADED: no such variable, or nobody listens. NO_PERMISSION: the socket is closed to us.
 */
nvmlReturn_t link_open(int *ret, struct packet *hello);
void link_close(int fd);

/* One request and its reply. GPU_IS_LOST: the software kernel is gone. UNKNOWN: it refused. */
nvmlReturn_t link_ask(int fd, const char *request, struct packet *reply);

/* The next packet of a connection that watches. GPU_IS_LOST: the software kernel is gone. */
nvmlReturn_t link_receive(int fd, struct packet *ret);

/* The value of the word "key=value", cut at `size`; false: there is no such word. */
bool packet_text(const struct packet *packet, const char *key, char *ret, unsigned int size);

/* The same for a decimal number. */
bool packet_number(const struct packet *packet, const char *key, unsigned long long *ret);

#endif
