/* SPDX-License-Identifier: Apache-2.0 */
/* Packets over SOCK_SEQPACKET sockets: what both ends of wire.h are made of. */
#ifndef SOFT_PACKET_H
#define SOFT_PACKET_H

#include <stdbool.h>
#include <stddef.h>

#include "wire.h"

/* Connects to the socket at directory + name. 0, or errno: ENOENT and ECONNREFUSED mean that nobody is there. */
int packet_connect(int *ret, const char *directory, const char *name);

bool packet_send(int socket, const void *data, size_t bytes);

/*
 * The next packet, zero-terminated; false: the other end is gone, or sent more than the wire allows.
 * Where `fd` is not NULL it receives the one descriptor that came along, -1 if none did.
 */
bool packet_receive(int socket, char data[SOFT_PACKET_MAX + 1], int *fd);

#endif
