/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE 1
#include "nvml_link.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static nvmlReturn_t link_connect(int *ret)
{
    const char *directory = secure_getenv("MPSAFE_SOFT_DIR");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!directory)
        return NVML_ERROR_DRIVER_NOT_LOADED;
    int length = snprintf(address.sun_path, sizeof(address.sun_path), "%s/rm", directory);
    if (length < 0 || (size_t)length >= sizeof(address.sun_path))
        return NVML_ERROR_DRIVER_NOT_LOADED;

    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return NVML_ERROR_OPERATING_SYSTEM;
    int failed;
    do
        failed = connect(fd, (const struct sockaddr *)&address, sizeof(address));
    while (failed && errno == EINTR);
    if (failed) {
        nvmlReturn_t why = errno == EACCES || errno == EPERM ? NVML_ERROR_NO_PERMISSION : NVML_ERROR_DRIVER_NOT_LOADED;
        close(fd);
        return why;
    }
    *ret = fd;
    return NVML_SUCCESS;
}

nvmlReturn_t link_open(int *ret, struct packet *hello)
{
    int fd;
    nvmlReturn_t result = link_connect(&fd);
    if (result)
        return result;
    result = link_ask(fd, "hello nvml", hello);
    if (result) {
        link_close(fd);
        return result == NVML_ERROR_GPU_IS_LOST ? NVML_ERROR_DRIVER_NOT_LOADED : result;
    }
    *ret = fd;
    return NVML_SUCCESS;
}

void link_close(int fd)
{
    close(fd);
}

nvmlReturn_t link_ask(int fd, const char *request, struct packet *reply)
{
    ssize_t sent;
    do
        sent = send(fd, request, strlen(request), MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent < 0)
        return NVML_ERROR_GPU_IS_LOST;
    nvmlReturn_t result = link_receive(fd, reply);
    if (result)
        return result;
    bool ok = !strcmp(reply->text, "ok") || !strncmp(reply->text, "ok ", 3);
    return ok ? NVML_SUCCESS : NVML_ERROR_UNKNOWN;
}

nvmlReturn_t link_receive(int fd, struct packet *ret)
{
    ssize_t length;
    do
        length = recv(fd, ret->text, SOFT_PACKET_MAX, 0);
    while (length < 0 && errno == EINTR);
    if (length <= 0)
        return NVML_ERROR_GPU_IS_LOST;
    ret->text[length] = '\0';
    return NVML_SUCCESS;
}

bool packet_text(const struct packet *packet, const char *key, char *ret, unsigned int size)
{
    size_t key_length = strlen(key);
    const char *word = packet->text;
    while ((word = strchr(word, ' '))) {
        word++;
        if (strncmp(word, key, key_length) || word[key_length] != '=')
            continue;
        const char *value = word + key_length + 1;
        snprintf(ret, size, "%.*s", (int)strcspn(value, " "), value);
        return true;
    }
    return false;
}

bool packet_number(const struct packet *packet, const char *key, unsigned long long *ret)
{
    char text[24];
    char *end;
    if (!packet_text(packet, key, text, sizeof(text)) || text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno || *end)
        return false;
    *ret = number;
    return true;
}
