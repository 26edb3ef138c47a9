/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#include "mpsafe_file.h"

#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/errno.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/poll.h>
#include <linux/printk.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

static struct
{
    mpsafe_core_t *core;
    wait_queue_head_t readers;

    // One reader at a time, so that each gets whole records in their order. `kept` is one that the core has given and
    // user space has not got.
    struct mutex lock;
    struct mpsafe_record kept;
    bool is_kept;
} g_file = {
    .readers = __WAIT_QUEUE_HEAD_INITIALIZER(g_file.readers),
    .lock = __MUTEX_INITIALIZER(g_file.lock),
};

static int file_open(struct inode *inode, struct file *file)
{
    if (!capable(CAP_SYS_ADMIN))
        return -EPERM;

    return mpsafe_core_open(g_file.core, ktime_get_ns());
}

static int file_release(struct inode *inode, struct file *file)
{
    g_file.is_kept = false;
    mpsafe_core_close(g_file.core, ktime_get_ns());

    return 0;
}

static bool is_readable(void)
{
    return READ_ONCE(g_file.is_kept) || mpsafe_core_readable(g_file.core);
}

// Whole records until the buffer is full, none is left or a signal came; 0 if there was none. A record that cannot be
// copied is kept for the next read.
static ssize_t copy_records(char __user *buffer, size_t count)
{
    ssize_t copied = 0;

    do {
        if (!g_file.is_kept && !mpsafe_core_read(g_file.core, &g_file.kept))
            break;

        WRITE_ONCE(g_file.is_kept, true);
        if (copy_to_user(buffer + copied, &g_file.kept, sizeof(g_file.kept)))
            return copied ? copied : -EFAULT;

        WRITE_ONCE(g_file.is_kept, false);
        copied += sizeof(g_file.kept);
        cond_resched();
    } while (count - copied >= sizeof(g_file.kept) && !signal_pending(current));

    return copied;
}

static ssize_t file_read(struct file *file, char __user *buffer, size_t count, loff_t *position)
{
    ssize_t copied;

    if (count < sizeof(g_file.kept))
        return -EINVAL;

    for (;;) {
        if (mutex_lock_interruptible(&g_file.lock))
            return -ERESTARTSYS;

        copied = copy_records(buffer, count);
        mutex_unlock(&g_file.lock);
        if (copied)
            return copied;

        if (file->f_flags & O_NONBLOCK)
            return -EAGAIN;

        // Another reader may be faster: the lock is not held, and this one looks again.
        if (wait_event_interruptible(g_file.readers, is_readable()))
            return -ERESTARTSYS;
    }
}

static __poll_t file_poll(struct file *file, poll_table *table)
{
    poll_wait(file, &g_file.readers, table);

    return is_readable() ? EPOLLIN | EPOLLRDNORM : 0;
}

static loff_t file_llseek(struct file *file, loff_t offset, int whence)
{
    if (offset != 0 || whence != SEEK_SET)
        return -EINVAL;

    if (mutex_lock_interruptible(&g_file.lock))
        return -ERESTARTSYS;

    WRITE_ONCE(g_file.is_kept, false);
    mpsafe_core_rewind(g_file.core);
    mutex_unlock(&g_file.lock);
    wake_up_all(&g_file.readers);

    return 0;
}

typedef union
{
    struct mpsafe_hello hello;
    struct mpsafe_policy policy;
    struct mpsafe_client client;
    struct mpsafe_client_mode client_mode;
    struct mpsafe_stats stats;
    struct mpsafe_answer answer;
    struct mpsafe_inject inject;
} payload_t;

// In the order of their numbers.
static const struct
{
    unsigned int request;
    const char *name;
} g_requests[] = {
    {MPSAFE_IOC_HELLO, "HELLO"},
    {MPSAFE_IOC_POLICY_SET, "POLICY_SET"},
    {MPSAFE_IOC_POLICY_GET, "POLICY_GET"},
    {MPSAFE_IOC_HEARTBEAT, "HEARTBEAT"},
    {MPSAFE_IOC_CLIENT_NEXT, "CLIENT_NEXT"},
    {MPSAFE_IOC_CLIENT_MODE, "CLIENT_MODE"},
    {MPSAFE_IOC_STATS, "STATS"},
    {MPSAFE_IOC_ANSWER, "ANSWER"},
    {MPSAFE_IOC_INJECT, "INJECT"},
};

static int do_request(unsigned int request, void __user *argument, const char **wrong)
{
    payload_t payload;
    size_t size = _IOC_SIZE(request);
    int err;

    memset(&payload, 0, sizeof(payload));
    if ((_IOC_DIR(request) & _IOC_WRITE) && copy_from_user(&payload, argument, size))
        return -EFAULT;

    err = mpsafe_core_request(g_file.core, request, &payload, ktime_get_ns(), wrong);

    // HELLO tells which ABI it speaks to whom it refuses, too.
    if ((err == 0 || err == -EPROTO) && (_IOC_DIR(request) & _IOC_READ) && copy_to_user(argument, &payload, size))
        return -EFAULT;

    return err;
}

static long mpsafe_ioctl(struct file *file, unsigned int request, unsigned long argument)
{
    unsigned int number = _IOC_NR(request);
    const char *wrong = NULL;
    int err;

    // What is not of this device at all is asked of any file, by isatty() for one.
    if (_IOC_TYPE(request) != MPSAFE_IOC_MAGIC)
        return -ENOTTY;

    if (number >= ARRAY_SIZE(g_requests) || g_requests[number].request != request) {
        pr_info_ratelimited("mpsafe: %s[%d]: there is no request 0x%08x\n",
                            current->comm, task_tgid_nr(current), request);
        return -ENOTTY;
    }

    err = do_request(request, (void __user *)argument, &wrong);

    // The end of the clients is an answer.
    if (err && !(request == MPSAFE_IOC_CLIENT_NEXT && err == -ENOENT)) {
        pr_info_ratelimited("mpsafe: %s[%d]: %s refused, errno %d, wrong field: %s\n",
                            current->comm, task_tgid_nr(current), g_requests[number].name, -err,
                            wrong ? wrong : "none");
    }

    return err;
}

static const struct file_operations g_file_operations = {
    .owner = THIS_MODULE,
    .open = file_open,
    .release = file_release,
    .read = file_read,
    .poll = file_poll,
    .llseek = file_llseek,
    .unlocked_ioctl = mpsafe_ioctl,
    .compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice g_file_misc = {
    .minor = MISC_DYNAMIC_MINOR,
    .name = "mpsafe",
    .fops = &g_file_operations,
    .mode = 0600,
};

int mpsafe_file_init(mpsafe_core_t *core)
{
    g_file.core = core;

    return misc_register(&g_file_misc);
}

void mpsafe_file_exit(void)
{
    misc_deregister(&g_file_misc);
}

void mpsafe_file_wake(void)
{
    wake_up_all(&g_file.readers);
}
