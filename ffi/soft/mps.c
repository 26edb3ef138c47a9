/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE 1
#include "mps.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "packet.h"
#include "rm.h"
#include "thread.h"
#include "wire.h"

static int server = -1;
static unsigned long group;

bool mps_joined(void)
{
    return server >= 0;
}

unsigned long mps_group(void)
{
    return group;
}

static CUresult mps_refusal(const char *reply)
{
    unsigned int error;
    return sscanf(reply, "error %9u", &error) == 1 && error ? (CUresult)error : CUDA_ERROR_MPS_CONNECTION_FAILED;
}

/* Asks the control daemon for the path of the server's socket. */
static CUresult mps_find_server(int control, char path[SOFT_PACKET_MAX + 1])
{
    static const char greeting[] = "OUTBHELL";
    struct __attribute__((packed)) {
        char magic[9];
        uint32_t kind;
        uint64_t length;
    } credentials = {.magic = "OUTBCRED", .kind = SOFT_MPS_KIND_CLIENT};
    char reply[SOFT_PACKET_MAX + 1];

    if (!packet_receive(control, reply, NULL) || strcmp(reply, greeting) ||
        !packet_send(control, &credentials, sizeof(credentials)) || !packet_receive(control, reply, NULL))
        return CUDA_ERROR_MPS_CONNECTION_FAILED;
    if (strncmp(reply, "server ", strlen("server ")))
        return mps_refusal(reply);
    strcpy(path, reply + strlen("server "));
    return CUDA_SUCCESS;
}

/* For the life of the process: does what the server says, notices when it is gone. */
static void *mps_serve(void *unused)
{
    static const char done[] = "terminated";
    char request[SOFT_PACKET_MAX + 1];
    while (packet_receive(server, request, NULL)) {
        if (strcmp(request, "terminate"))
            continue;
        rm_fail(CUDA_ERROR_MPS_CLIENT_TERMINATED);
        packet_send(server, done, strlen(done));
    }
    rm_fail(CUDA_ERROR_MPS_RPC_FAILURE);
    return unused;
}

CUresult mps_join(void)
{
    char path[SOFT_PACKET_MAX + 1];
    char reply[SOFT_PACKET_MAX + 1];
    const char *directory = secure_getenv("CUDA_MPS_PIPE_DIRECTORY");
    int control;
    int error = packet_connect(&control, directory ? directory : "/tmp/nvidia-mps", "/control");
    if (error)
        return error == ENOENT || error == ECONNREFUSED ? CUDA_SUCCESS : CUDA_ERROR_MPS_CONNECTION_FAILED;
    CUresult result = mps_find_server(control, path);
    close(control);
    if (result)
        return result;

    if (packet_connect(&server, path, ""))
        return CUDA_ERROR_MPS_CONNECTION_FAILED;
    if (!packet_receive(server, reply, NULL))
        result = CUDA_ERROR_MPS_CONNECTION_FAILED;
    else if (sscanf(reply, "ok %lu ", &group) != 1)
        result = mps_refusal(reply);
    if (result)
        mps_leave();
    return result;
}

CUresult mps_serve_start(void)
{
    return mps_joined() ? thread_start(mps_serve, NULL) : CUDA_SUCCESS;
}

void mps_leave(void)
{
    if (server >= 0)
        close(server);
    server = -1;
    group = 0;
}
