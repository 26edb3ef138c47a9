/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The edges of /dev/mpsafe that mpsafe_uapi.h fixes, one after the other, over a module that makes clients. Status 0,
 * or 1 and the line that did not hold. `int 0x80` is how a 32-bit program calls, so the same requests go that way.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mpsafe_uapi.h"

#define CHECK(holds) ((holds) ? (void)0 : fail(#holds, __LINE__))
#define FAILS(call, error) ((call) < 0 && errno == (error))
#define RECORD sizeof(struct mpsafe_record)
#define PAGE 4096UL
#define COMPAT_IOCTL 54
#define MANY 2001 /* odd: the last one is OFF, and no missed heartbeat adds another */

static int device;

/* Hidden from the compiler, which knows what read() is not to be given. */
static ssize_t (*volatile take)(int, void *, size_t) = read;

static void fail(const char *what, int line)
{
    fprintf(stderr, "device_edges.c:%d: %s (errno %d)\n", line, what, errno);
    exit(1);
}

static int set_mode(int fd, unsigned mode)
{
    struct mpsafe_policy policy = {.mode = mode, .places = 0xe, .units = 0x6, .sinks_max = 1, .budget_us = 1};

    return ioctl(fd, MPSAFE_IOC_POLICY_SET, &policy);
}

/* Each makes one record: of the policy that is in force. */
static void make_records(int count)
{
    for (int i = 0; i < count; i++)
        CHECK(set_mode(device, i % 2) == 0);
}

static void drain(void)
{
    struct mpsafe_record record;

    while (take(device, &record, RECORD) == (ssize_t)RECORD)
        ;
    CHECK(errno == EAGAIN);
}

static void one_open_file(void)
{
    struct mpsafe_policy policy;
    int copy = dup(device);

    CHECK(FAILS(open("/dev/mpsafe", O_RDWR), EBUSY));
    CHECK(set_mode(device, MPSAFE_MODE_ABSORB) == 0);
    if (fork() == 0) {
        close(device);
        _exit(set_mode(copy, MPSAFE_MODE_OBSERVE) != 0);
    }
    wait(NULL);
    close(device);
    CHECK(FAILS(open("/dev/mpsafe", O_RDWR), EBUSY));
    CHECK(ioctl(copy, MPSAFE_IOC_POLICY_GET, &policy) == 0 && policy.mode == MPSAFE_MODE_OBSERVE);
    close(copy);
    device = open("/dev/mpsafe", O_RDWR | O_NONBLOCK);
    CHECK(device >= 0);
    CHECK(ioctl(device, MPSAFE_IOC_POLICY_GET, &policy) == 0 && policy.mode == MPSAFE_MODE_OFF);
}

static void buffers_of_all_sizes(void)
{
    unsigned char *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct mpsafe_record *record = (void *)pages;
    struct mpsafe_record *last = (void *)(pages + PAGE - RECORD);
    __u64 seq;

    CHECK(mprotect(pages + PAGE, PAGE, PROT_NONE) == 0);
    drain();
    make_records(3);
    CHECK(FAILS(take(device, pages, 0), EINVAL));
    CHECK(FAILS(take(device, pages, RECORD - 1), EINVAL));
    CHECK(take(device, pages, ~0UL) < 0);
    CHECK(take(device, pages, 2 * RECORD - 1) == (ssize_t)RECORD);
    seq = record->seq;
    CHECK(FAILS(take(device, pages + PAGE, RECORD), EFAULT));
    CHECK(FAILS(take(device, pages + PAGE - 1, RECORD), EFAULT));
    CHECK(FAILS(take(device, NULL, RECORD), EFAULT));
    /* One is copied, one is not: neither is lost. */
    CHECK(take(device, last, 2 * RECORD) == (ssize_t)RECORD && last->seq == seq + 1);
    CHECK(take(device, pages, 1UL << 40) == (ssize_t)RECORD && record->seq == seq + 2);
    CHECK(FAILS(take(device, pages, PAGE), EAGAIN));
    munmap(pages, 2 * PAGE);
}

static void rewinding(void)
{
    struct mpsafe_record first;
    struct mpsafe_record again;
    struct pollfd waiting = {.fd = device, .events = POLLIN};

    CHECK(lseek(device, 0, SEEK_SET) == 0 && take(device, &first, RECORD) == (ssize_t)RECORD);
    drain();
    CHECK(poll(&waiting, 1, 0) == 0);
    CHECK(FAILS(lseek(device, 0, SEEK_CUR), EINVAL));
    CHECK(FAILS(lseek(device, 0, SEEK_END), EINVAL));
    CHECK(FAILS(lseek(device, 1, SEEK_SET), EINVAL));
    CHECK(FAILS(lseek(device, -1, SEEK_SET), EINVAL));
    /* A record that a bad pointer kept back is not repeated behind the rewind. */
    make_records(1);
    CHECK(FAILS(take(device, NULL, RECORD), EFAULT));
    CHECK(poll(&waiting, 1, 0) == 1 && waiting.revents == POLLIN);
    CHECK(lseek(device, 0, SEEK_SET) == 0);
    CHECK(take(device, &again, RECORD) == (ssize_t)RECORD && again.seq == first.seq);
    drain();
}

static void interrupted(int signal)
{
    (void)signal;
}

static void a_signal_ends_a_read(void)
{
    struct sigaction action = {.sa_handler = interrupted};
    struct mpsafe_record record;
    pid_t reader;
    int status;

    drain();
    CHECK(fcntl(device, F_SETFL, 0) == 0);
    reader = fork();
    if (reader == 0) {
        sigaction(SIGALRM, &action, NULL);
        alarm(1);
        _exit(FAILS(take(device, &record, RECORD), EINTR) ? 0 : 1);
    }
    CHECK(waitpid(reader, &status, 0) == reader && status == 0);
    CHECK(fcntl(device, F_SETFL, O_NONBLOCK) == 0);
}

static __u8 seen[MANY + 1];
static __u64 seen_from;

static void *read_many(void *count)
{
    struct mpsafe_record records[3];
    ssize_t got;

    while ((got = take(device, records, sizeof(records))) > 0)
        for (size_t i = 0; i < got / RECORD; i++) {
            CHECK(records[i].seq >= seen_from && records[i].seq < seen_from + MANY);
            __atomic_fetch_add(&seen[records[i].seq - seen_from], 1, __ATOMIC_RELAXED);
            ++*(int *)count;
        }
    return NULL;
}

static void two_readers_share(void)
{
    struct mpsafe_stats stats;
    pthread_t threads[2];
    int counts[2] = {0, 0};

    drain();
    CHECK(ioctl(device, MPSAFE_IOC_STATS, &stats) == 0);
    seen_from = stats.records + 1;
    make_records(MANY);
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, read_many, &counts[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    CHECK(counts[0] + counts[1] == MANY);
    for (int i = 0; i < MANY; i++)
        CHECK(seen[i] == 1);
}

static void refused_and_unchanged(void)
{
    struct mpsafe_hello hello = {.size = sizeof(hello), .abi = MPSAFE_ABI + 1};
    struct mpsafe_policy policy = {.mode = 3};

    CHECK(FAILS(ioctl(device, MPSAFE_IOC_HELLO, &hello), EPROTO) && hello.abi == MPSAFE_ABI);
    CHECK(ioctl(device, MPSAFE_IOC_HELLO, &hello) == 0 && hello.record_size == RECORD);
    CHECK(set_mode(device, MPSAFE_MODE_OBSERVE) == 0);
    CHECK(FAILS(ioctl(device, MPSAFE_IOC_POLICY_SET, &policy), EINVAL));
    CHECK(FAILS(ioctl(device, MPSAFE_IOC_POLICY_SET, NULL), EFAULT));
    CHECK(ioctl(device, MPSAFE_IOC_POLICY_GET, &policy) == 0 && policy.mode == MPSAFE_MODE_OBSERVE);
    /* The number of a request with another size of its struct is no request, whatever its pointer is. */
    CHECK(FAILS(ioctl(device, _IOR(MPSAFE_IOC_MAGIC, 2, char[8]), NULL), ENOTTY));
    CHECK(FAILS(ioctl(device, _IO(MPSAFE_IOC_MAGIC, 2), NULL), ENOTTY));
    CHECK(FAILS(write(device, &policy, sizeof(policy)), EINVAL));
    CHECK(FAILS(ioctl(device, 0x5401 /* TCGETS */, &policy), ENOTTY));
}

#ifdef __x86_64__
static long compat_ioctl(unsigned request, void *argument)
{
    long result = COMPAT_IOCTL;

    __asm__ volatile("int $0x80" : "+a"(result) : "b"((long)device), "c"((long)request), "d"(argument)
                     : "memory", "r8", "r9", "r10", "r11");
    return result;
}

static void the_same_for_32_bits(void)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT;
    struct mpsafe_hello *hello = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    struct mpsafe_policy *policy = (void *)(hello + 1);

    *hello = (struct mpsafe_hello){.size = sizeof(*hello), .abi = MPSAFE_ABI};
    CHECK(compat_ioctl(MPSAFE_IOC_HELLO, hello) == 0 && hello->record_size == RECORD);
    CHECK(compat_ioctl(MPSAFE_IOC_POLICY_GET, policy) == 0 && policy->mode == MPSAFE_MODE_OBSERVE);
    CHECK(compat_ioctl(MPSAFE_IOC_POLICY_SET, NULL) == -EFAULT);
    munmap(hello, PAGE);
}
#endif

int main(void)
{
    device = open("/dev/mpsafe", O_RDWR | O_NONBLOCK);
    CHECK(device >= 0);
    one_open_file();
    buffers_of_all_sizes();
    rewinding();
    a_signal_ends_a_read();
    two_readers_share();
    refused_and_unchanged();
#ifdef __x86_64__
    the_same_for_32_bits();
#endif
    return 0;
}
