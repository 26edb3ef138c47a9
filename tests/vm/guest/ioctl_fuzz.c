/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random calls on /dev/mpsafe, for a machine that may break: root's own, a virtual one.
 *
 *   ioctl_fuzz CALLS [SEED]
 *
 * Threads of this process and of a forked one share one descriptor and close it under each other; signals come all
 * the time. Processes of their own are the clients, since some of the calls kill those. At the end all clients are
 * released and ended. Prints how often each call ended in each way; status 1 and a line on standard error for an
 * errno that no call may have, a record that is none, an outcome that never came, or a hang.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mpsafe_uapi.h"

#define THREADS 3 /* of each of the two processes */
#define CLIENTS 6
#define HANG_S 120
#define PAGE 4096UL

enum call { IOCTL, READ, POLL, LSEEK, OPEN, CALLS };

static const char *const call_names[CALLS] = {"ioctl", "read", "poll", "lseek", "open"};

/* What each call may end in; those before the first 0 are to be seen. */
static const int outcomes[CALLS][12] = {
    [IOCTL] = {EINVAL, EFAULT, ENOTTY, ESRCH, EPROTO, ENOENT, 0, EBADF, EPERM},
    [READ] = {EINVAL, EFAULT, 0, EAGAIN, EINTR, EBADF},
    [POLL] = {0, EINTR},
    [LSEEK] = {EINVAL, 0, EINTR, EBADF},
    [OPEN] = {EBUSY, 0, EINTR},
};

/* What both processes share. */
static struct shared {
    atomic_long left;
    atomic_long counts[CALLS][200];
    atomic_ullong last_client;
} *shared;

static pid_t clients[CLIENTS];
static atomic_int device = -1;
static atomic_bool alone; /* no other process has it open: closing it ends it */
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;

/* Of one thread. `arena` is two pages, of which only the first may be used; `constant` may only be read. */
struct worker {
    pthread_t thread;
    uint64_t random;
    long until; /* it stops with so many calls left */
    unsigned char *arena;
    unsigned char *constant;
};

static void die(const char *what, long value)
{
    fprintf(stderr, "ioctl_fuzz: %s: %ld\n", what, value);
    _exit(1);
}

static uint64_t draw(struct worker *self, uint64_t below)
{
    self->random ^= self->random << 13; /* xorshift64 */
    self->random ^= self->random >> 7;
    self->random ^= self->random << 17;
    return below ? self->random % below : self->random;
}

static uint64_t odd_value(struct worker *self)
{
    static const uint64_t values[] = {0, 1, 2, 3, 4, 7, 0x7fff, 0xffff, 0x7fffffff, 0xffffffff, 1ULL << 47, ~0ULL};

    return draw(self, 4) ? values[draw(self, sizeof(values) / sizeof(*values))] : draw(self, 0);
}

static long ended(enum call call, long result)
{
    int error = result < 0 ? errno : 0;
    bool known = false;

    for (size_t i = 0; i < sizeof(outcomes[call]) / sizeof(int); i++)
        known |= outcomes[call][i] == error;
    if (!known)
        die(call_names[call], error);
    shared->counts[call][error]++;
    return result;
}

static void *odd_pointer(struct worker *self, size_t size)
{
    switch (draw(self, 16)) {
    case 0:
        return NULL;
    case 1: /* the kernel's */
        return (void *)(0xffff888000000000UL + draw(self, 1UL << 30));
    case 2:
        return self->arena + PAGE;
    case 3:
        return self->arena + PAGE - draw(self, size + 1); /* over the edge */
    case 4:
        return self->constant;
    case 5:
        return (void *)odd_value(self);
    default:
        return self->arena + draw(self, PAGE / 2);
    }
}

static unsigned long valid_request(struct worker *self, void *payload)
{
    uint64_t last = shared->last_client;
    uint64_t client = draw(self, 4) && last > 2 * CLIENTS ? last - draw(self, 2 * CLIENTS) : draw(self, last + 2);

    switch (draw(self, 10)) {
    case 0:
        *(struct mpsafe_hello *)payload = (struct mpsafe_hello){.size = sizeof(struct mpsafe_hello), .abi = MPSAFE_ABI};
        return MPSAFE_IOC_HELLO;
    case 1:
        *(struct mpsafe_policy *)payload = (struct mpsafe_policy){
            .mode = draw(self, 3), .places = 0xe, .units = 0x6, .sinks_max = 1 + draw(self, MPSAFE_SINKS_MAX),
            .budget_us = 60000000, .grow_after = {draw(self, 8), 8 + draw(self, 64)}, .hold_ms = draw(self, 60000),
            .kill_ms = draw(self, 4) ? 0 : draw(self, 1000)};
        return MPSAFE_IOC_POLICY_SET;
    case 2:
        return MPSAFE_IOC_POLICY_GET;
    case 3:
        return MPSAFE_IOC_HEARTBEAT;
    case 4:
        *(struct mpsafe_client *)payload = (struct mpsafe_client){.client = client};
        return MPSAFE_IOC_CLIENT_NEXT;
    case 5:
        *(struct mpsafe_client_mode *)payload = (struct mpsafe_client_mode){
            .client = client, .mode = draw(self, 4) ? draw(self, 3) : MPSAFE_MODE_INHERIT};
        return MPSAFE_IOC_CLIENT_MODE;
    case 6:
        return MPSAFE_IOC_STATS;
    case 7:
        *(struct mpsafe_answer *)payload = (struct mpsafe_answer){.client = client, .action = 1 + draw(self, 3)};
        if (((struct mpsafe_answer *)payload)->action == MPSAFE_ANSWER_EXTEND)
            ((struct mpsafe_answer *)payload)->ms = 1 + draw(self, 600000);
        return MPSAFE_IOC_ANSWER;
    default:
        *(struct mpsafe_inject *)payload = (struct mpsafe_inject){
            .client = client, .va = draw(self, 1UL << 40), .access = draw(self, 4), .fault = 1 + draw(self, 4),
            .unit = draw(self, 3), .place = draw(self, 6), .gpu_uuid = {draw(self, 2)}};
        return MPSAFE_IOC_INJECT;
    }
}

static void one_ioctl(struct worker *self)
{
    uint64_t words[32] = {0};
    unsigned long request = valid_request(self, words);
    size_t size = _IOC_SIZE(request);
    void *argument = odd_pointer(self, size);
    bool inside;

    for (uint64_t n = draw(self, 3); n > 0 && size > 0; n--) {
        uint64_t value = odd_value(self);
        size_t width = 1UL << draw(self, 4);

        memcpy((unsigned char *)words + draw(self, size / width) * width, &value, width);
    }
    if (draw(self, 8) == 0)
        request = _IOC(draw(self, 4), MPSAFE_IOC_MAGIC, draw(self, 12), draw(self, 256));
    else if (draw(self, 32) == 0)
        request = draw(self, 0);

    inside = (uintptr_t)argument - (uintptr_t)self->arena <= PAGE / 2;
    if (inside)
        memcpy(argument, words, sizeof(words));
    if (ended(IOCTL, ioctl(device, request, argument)) == 0 && request == MPSAFE_IOC_CLIENT_NEXT && inside)
        shared->last_client = ((struct mpsafe_client *)argument)->client;
}

static void one_read(struct worker *self)
{
    size_t size = draw(self, 4) ? draw(self, PAGE) : odd_value(self);
    unsigned char *buffer = odd_pointer(self, PAGE);
    long got = ended(READ, read(device, buffer, size));

    for (long at = 0; at < got; at += sizeof(struct mpsafe_record)) {
        const struct mpsafe_record *record = (const void *)(buffer + at);

        if (record->size != sizeof(*record) || record->seq == 0 || record->type < 1 || record->type > 6)
            die("not a record, of size", record->size);
    }
}

/* Others are in the middle of a call on what is closed here. */
static void one_open(struct worker *self)
{
    int flags = O_RDWR | O_CLOEXEC | (draw(self, 2) ? O_NONBLOCK : 0);
    int spare;
    int fd;

    pthread_mutex_lock(&opening);
    spare = alone && draw(self, 2) ? -1 : dup(device);
    close(device);
    fd = (int)ended(OPEN, open("/dev/mpsafe", flags));
    device = fd >= 0 ? fd : spare;
    if (device != spare)
        close(spare);
    pthread_mutex_unlock(&opening);
}

static void be_client(void)
{
    close_range(3, ~0U, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (open("/dev/mpsafe-client", O_RDWR) < 0)
        die("/dev/mpsafe-client", errno);
    for (;;)
        pause();
}

static void renew_clients(void)
{
    pid_t pid;

    for (int i = 0; i < CLIENTS; i++) {
        if (clients[i] > 0 && waitpid(clients[i], NULL, WNOHANG) == 0)
            continue;
        pid = fork();
        if (pid == 0)
            be_client();
        if (pid < 0)
            die("fork", errno);
        clients[i] = pid;
    }
}

static void *work(void *argument)
{
    struct worker *self = argument;
    struct pollfd waiting = {.events = POLLIN};

    while (shared->left-- > self->until) {
        switch (draw(self, 64)) {
        case 0:
            one_open(self);
            break;
        case 1 ... 6:
            one_read(self);
            break;
        case 7:
            waiting.fd = device;
            ended(POLL, poll(&waiting, 1, (int)draw(self, 3)));
            break;
        case 8:
            ended(LSEEK, lseek(device, draw(self, 2) ? 0 : (off_t)odd_value(self), (int)draw(self, 4)));
            break;
        default:
            one_ioctl(self);
        }
    }
    return NULL;
}

static struct worker *start_workers(uint64_t seed, long until)
{
    static struct worker workers[THREADS];

    for (int i = 0; i < THREADS; i++) {
        struct worker *self = &workers[i];

        self->random = (seed + i + 1) * 0x9e3779b97f4a7c15ULL | 1;
        self->until = until;
        self->arena = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        self->constant = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(self->arena + PAGE, PAGE, PROT_NONE);
        pthread_create(&self->thread, NULL, work, self);
    }
    return workers;
}

/* Signals the workers until they have ended: a read may wait for ever, rightly. */
static void join_workers(struct worker *workers, pid_t other)
{
    long left = shared->left;
    int status;

    for (int joined = 0, unchanged_ms = 0; joined < THREADS || (other > 0 && !alone); unchanged_ms += 10) {
        usleep(10000);
        for (int i = joined; i < THREADS; i++)
            pthread_kill(workers[i].thread, SIGUSR1);
        while (joined < THREADS && pthread_tryjoin_np(workers[joined].thread, NULL) == 0)
            joined++;
        if (left != shared->left)
            unchanged_ms = 0;
        left = shared->left;
        if (unchanged_ms > HANG_S * 1000)
            die("hangs, with so many calls left", left);
        if (other > 0)
            renew_clients();
        if (other > 0 && !alone && waitpid(other, &status, WNOHANG) == other) {
            if (status != 0)
                die("the other process failed, wait status", status);
            alone = true;
        }
    }
}

/* All clients, living or held, are released and end. */
static void end_clients(void)
{
    struct mpsafe_client client;

    close(device);
    /* The last client that was forked has what its parent had, until it has come to close it. */
    for (int left_ms = HANG_S * 1000; (device = open("/dev/mpsafe", O_RDWR | O_CLOEXEC)) < 0; usleep(10000))
        if (errno != EBUSY || (left_ms -= 10) < 0)
            die("/dev/mpsafe after all is closed", errno);
    for (int i = 0; i < CLIENTS; i++)
        kill(clients[i], SIGKILL);
    for (int waited_ms = 0, left = 1; left > 0; waited_ms += 10) {
        left = 0;
        for (client = (struct mpsafe_client){0}; ioctl(device, MPSAFE_IOC_CLIENT_NEXT, &client) == 0; left++) {
            struct mpsafe_answer release = {.client = client.client, .action = MPSAFE_ANSWER_RELEASE};

            ioctl(device, MPSAFE_IOC_ANSWER, &release);
            client = (struct mpsafe_client){.client = client.client};
        }
        if (waited_ms > HANG_S * 1000)
            die("clients that do not end", left);
        usleep(10000);
    }
    while (wait(NULL) > 0) {
    }
}

static const char *name_of(int error)
{
    return error ? strerrorname_np(error) : "0";
}

static void report(void)
{
    for (enum call call = 0; call < CALLS; call++) {
        for (int error = 0; error < 200; error++)
            if (shared->counts[call][error])
                printf("%s %s %ld\n", call_names[call], name_of(error), shared->counts[call][error]);
        for (int i = 0; i == 0 || outcomes[call][i - 1] != 0; i++)
            if (shared->counts[call][outcomes[call][i]] == 0) {
                fprintf(stderr, "ioctl_fuzz: no %s ended in %s\n", call_names[call], name_of(outcomes[call][i]));
                exit(1);
            }
    }
}

static void interrupt(int signal)
{
    (void)signal;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = interrupt};
    long calls = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    pid_t other;

    if (calls <= 0)
        die("usage: ioctl_fuzz CALLS [SEED]; calls", calls);
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared->left = calls;
    sigaction(SIGUSR1, &action, NULL);
    device = open("/dev/mpsafe", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (device < 0)
        die("/dev/mpsafe", errno);
    renew_clients();
    shared->last_client = CLIENTS;

    other = fork();
    if (other == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        join_workers(start_workers(seed + THREADS, calls / 2), 0);
        _exit(0);
    }
    join_workers(start_workers(seed, 0), other);
    end_clients();
    report();
    return 0;
}
