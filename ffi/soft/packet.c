/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE 1
#include "packet.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int packet_connect(int *ret, const char *directory, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof(address.sun_path), "%s%s", directory, name);
    if (length < 0 || (size_t)length >= sizeof(address.sun_path))
        return ENAMETOOLONG;

    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    int failed;
    do
        failed = connect(fd, (const struct sockaddr *)&address, sizeof(address));
    while (failed && errno == EINTR);
    if (failed) {
        int error = errno;
        close(fd);
        return error;
    }
    *ret = fd;
    return 0;
}

bool packet_send(int socket, const void *data, size_t bytes)
{
    ssize_t sent;
    do
        sent = send(socket, data, bytes, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)bytes;
}

bool packet_receive(int socket, char data[SOFT_PACKET_MAX + 1], int *fd)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec vector = {.iov_base = data, .iov_len = SOFT_PACKET_MAX};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    if (fd) {
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
        *fd = -1;
    }
    ssize_t length;
    do
        length = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    if (length <= 0)
        return false;

    struct cmsghdr *header = fd ? CMSG_FIRSTHDR(&message) : NULL;
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(fd, CMSG_DATA(header), sizeof(int));
    data[length] = '\0';
    return !(message.msg_flags & MSG_TRUNC);
}
